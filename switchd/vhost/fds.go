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
	name, err := nameOf(fd)
	if err != nil {
		return err
	}
	if name != eventFD {
		return fmt.Errorf("the front-end passed %q where an eventfd is wanted", name)
	}
	return unblock(fd)
}

// eventFD is what /proc calls an eventfd.
const eventFD = "anon_inode:[eventfd]"

// nameOf is what /proc calls a file.
func nameOf(fd int) (string, error) {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", fmt.Errorf("looking at a descriptor that should be an eventfd: %w", err)
	}
	return name, nil
}

func unblock(fd int) error {
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

// checkCall is checkEventFD for what is to wake a driver, which may also be one end of a connected pair of AF_UNIX sockets: user-mode-linux has
// no other way to get a signal for it. It is used without blocking (virtio.SignalSocket), whatever its flags are. Sockets of other families
// are refused: what using and closing them may take is the network's affair.
func checkCall(fd int) (socket bool, err error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == unix.ENOTSOCK {
		return false, checkEventFD(fd)
	}
	if err != nil {
		return false, fmt.Errorf("looking at a descriptor that should wake the driver: %w", err)
	}
	if domain != unix.AF_UNIX {
		return false, fmt.Errorf("the front-end passed a socket of family %d where an eventfd, or one end of an AF_UNIX socket pair, is wanted", domain)
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return false, fmt.Errorf("the front-end passed an AF_UNIX socket that is not connected where an eventfd is wanted: %w", err)
	}
	return true, nil
}
