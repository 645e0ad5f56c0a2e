package pci

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl calls with a structure that the kernel reads and may write. It assumes that arg is what request expects, of the size that its argsz says.
func ioctl[T any](fd int, request uintptr, arg *T, what string) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
		runtime.KeepAlive(arg)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
			continue
		}
		return -1, fmt.Errorf("%s: %w", what, errno)
	}
}

// ioctlBytes is ioctl for a structure of variable length.
func ioctlBytes(fd int, request uintptr, arg []byte, what string) error {
	_, err := ioctl(fd, request, unsafe.SliceData(arg), what)
	return err
}

// ioctlOut is ioctl for a structure that has the address of a buffer, for the kernel to fill, at an offset. It assumes that the structure says
// how long the buffer is. The buffer is pinned as long as the kernel knows of it.
func ioctlOut(fd int, request uintptr, arg []byte, offset int, out []byte, what string) error {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	p := unsafe.SliceData(out)
	pinner.Pin(p)
	binary.LittleEndian.PutUint64(arg[offset:], uint64(uintptr(unsafe.Pointer(p))))
	return ioctlBytes(fd, request, arg, what)
}

// size is a structure's for its argsz field.
func size[T any](T) uint32 {
	var v T
	return uint32(unsafe.Sizeof(v))
}
