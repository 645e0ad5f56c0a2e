package forward

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// userfaultfd(2): the structures of linux/userfaultfd.h.
type uffdioAPI struct{ api, features, ioctls uint64 }
type uffdioRegister struct{ start, length, mode, ioctls uint64 }

const (
	uffdUserModeOnly  = 1
	uffdAPI           = 0xaa
	uffdioAPICall     = 0xc018aa3f // UFFDIO_API
	uffdioRegisterReq = 0xc020aa00 // UFFDIO_REGISTER
	modeMissing       = 1
)

// hangFaults makes every access to these pages of this process, which nobody has touched yet, wait until the function that it returns is called.
// It assumes that at and length are whole pages of one mapping of a memfd.
func hangFaults(tb testing.TB, at guestmem.Ptr, length uint64) (release func()) {
	tb.Helper()
	r, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|uffdUserModeOnly, 0, 0)
	if errno != 0 {
		tb.Fatalf("userfaultfd: %v", errno)
	}
	fd := int(r)
	api := uffdioAPI{api: uffdAPI}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, r, uffdioAPICall, uintptr(unsafe.Pointer(&api))); errno != 0 {
		tb.Fatalf("UFFDIO_API: %v", errno)
	}
	reg := uffdioRegister{start: uint64(at), length: length, mode: modeMissing}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, r, uffdioRegisterReq, uintptr(unsafe.Pointer(&reg))); errno != 0 {
		tb.Fatalf("UFFDIO_REGISTER: %v", errno)
	}
	released := false
	release = func() {
		if !released {
			released = true
			unix.Close(fd) // whoever waits goes on, and the pages are ordinary ones again
		}
	}
	tb.Cleanup(release)
	return release
}
