package unixsocket

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// RefuseRights makes the kernel refuse descriptors (SCM_RIGHTS) that others send to a socket, or to those that a listening socket accepts
// from now on: who reads what came with descriptors, and does not take them, is who closes them, and that can take as long as the file's
// owner likes (SO_LINGER, a file system in user space). Descriptors can still be sent from here. It returns false where the kernel
// is older than Linux 6.16.
func RefuseRights(s syscall.Conn) (bool, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return false, err
	}
	var option error
	if err := raw.Control(func(fd uintptr) { option = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) }); err != nil {
		return false, err
	}
	if errors.Is(option, unix.ENOPROTOOPT) {
		return false, nil
	}
	return option == nil, option
}
