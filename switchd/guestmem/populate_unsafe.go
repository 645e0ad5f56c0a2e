package guestmem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mincore asks which pages of data are in memory: bit 0 of each byte of there, one byte a page. It assumes that data is whole pages of a
// mapping, which mincore(2) demands, and checks that there is long enough.
func mincore(data, there []byte) error {
	if len(data) == 0 {
		return nil
	}
	if len(there) < (len(data)+unix.Getpagesize()-1)/unix.Getpagesize() {
		return unix.EINVAL
	}
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)),
		uintptr(unsafe.Pointer(unsafe.SliceData(there))))
	if errno != 0 {
		return errno
	}
	return nil
}
