// Package proc is what tests need around processes: programs of this project built, their output collected, and, for the one who looks for
// a fault, their command lines shown and their directories kept.
package proc

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// Buffer collects a process's output while tests look at it.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p. It never fails.
func (l *Buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is all that was written so far.
func (l *Buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Tail gives the last lines of a text.
func Tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Build builds programs of vhostkit/cmd into dir, as the Makefile does: vhostctl alone has cgo, for libvirt's binding.
func Build(dir string, names ...string) error {
	for _, name := range names {
		cgo := "0"
		if name == "vhostctl" {
			cgo = "1"
		}
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", "-tags", "libvirt_dlopen", "vhostkit/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// Keep tells whether directories of processes are to stay when a test has ended: VHOSTKIT_KEEP=1.
func Keep() bool { return os.Getenv("VHOSTKIT_KEEP") == "1" }

// Show writes a command line to w, ready for a shell, and the directory with the process's files, if VHOSTKIT_SHOW=1 or they are kept.
func Show(w io.Writer, name, dir string, argv []string) {
	if os.Getenv("VHOSTKIT_SHOW") != "1" && !Keep() {
		return
	}
	stay := "removed afterwards; KEEP=1 keeps them"
	if Keep() {
		stay = "kept"
	}
	fmt.Fprintf(w, "%s: files in %s (%s)\n%s: %s\n", name, dir, stay, name, Quote(argv))
}

// Quote makes one line for a shell of an argument vector.
func Quote(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		quoted[i] = a
		if a == "" || strings.Trim(a, plain) != "" {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// plain are the characters that mean themselves to a shell.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,./:@%"
