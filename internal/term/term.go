// Package term tells what is known about a terminal that a program writes to or reads from.
package term

import (
	"os"

	"golang.org/x/sys/unix"
)

// IsTerminal tells whether a file is a terminal. The file stays as it is: os.File.Fd would make it a blocking one.
func IsTerminal(f *os.File) bool {
	c, err := f.SyscallConn()
	if err != nil {
		return false
	}
	outer := c.Control(func(fd uintptr) { _, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
	return outer == nil && err == nil
}

// Colours tells whether to write colours (ECMA-48) to a file: it is a terminal that has them, and the user did not switch them off
// (NO_COLOR, see no-color.org).
func Colours(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && IsTerminal(f)
}
