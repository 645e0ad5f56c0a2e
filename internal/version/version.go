// Package version tells which vhostkit a program is.
package version

import (
	"fmt"
	"runtime"
)

// Version is the release, with the commits since; the linker sets it (-X vhostkit/internal/version.Version=v1.2.3).
var Version = "devel"

// BuildInfo is the version with what it was built by and for, as the programs print it: "v1.2.3 (go1.25.0, linux/amd64)".
func BuildInfo() string {
	return fmt.Sprintf("%s (%s, %s/%s)", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
