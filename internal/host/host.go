// Package host has the facts of a Linux host that several programs of vhostkit need: who is at the other end of a socket, how long a
// socket's path may be, the kernel's modules.
package host

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// MaxSocketPath is the longest path of a Unix socket, in bytes: sun_path without its NUL (unix(7)).
const MaxSocketPath = 107

// moduleTimeout bounds modprobe, which waits for the hardware that a module looks for.
const moduleTimeout = 20 * time.Second

// LoadModule makes the kernel load a module (modprobe(8)); one that is loaded already is no error. It needs CAP_SYS_MODULE.
func LoadModule(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), moduleTimeout)
	defer cancel()
	tool, err := exec.LookPath("modprobe")
	if err != nil {
		tool = "/sbin/modprobe" // often not in the PATH of services and users
	}
	output, err := exec.CommandContext(ctx, tool, name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe %s: %w: %s", name, err, strings.TrimSpace(string(output)))
	}
	return nil
}
