package vhost

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// CloseFDs closes descriptors that are not wanted.
func CloseFDs(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// checkEventFD makes sure that a descriptor from a front-end is an eventfd and that using it cannot block a worker. The flag belongs to the
// open file that the front-end shares; all known front-ends set it themselves.
func checkEventFD(fd int) error {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return fmt.Errorf("looking at a descriptor that should be an eventfd: %w", err)
	}
	if name != "anon_inode:[eventfd]" {
		return fmt.Errorf("the front-end passed %q where an eventfd is wanted", name)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("fcntl of an eventfd: %w", err)
	}
	if flags&unix.O_NONBLOCK == 0 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_NONBLOCK); err != nil {
			return fmt.Errorf("making an eventfd non-blocking: %w", err)
		}
	}
	return nil
}
