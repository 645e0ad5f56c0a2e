package boot

import (
	"context"
	"os"
	"path/filepath"
)

// Below is for a system that is not running, below a directory: it knows that system's programs, and runs none.
type Below struct{ Root string }

// Has looks where that system has its programs.
func (b Below) Has(name string) bool {
	for _, dir := range []string{"usr/sbin", "usr/bin", "sbin", "bin"} {
		if info, err := os.Stat(filepath.Join(b.Root, dir, name)); err == nil && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// Run does nothing: the plan shows what is to run there.
func (Below) Run(context.Context, ...string) (string, error) { return "", nil }
