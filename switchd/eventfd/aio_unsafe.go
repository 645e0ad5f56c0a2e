package eventfd

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// request is struct iocb (linux/aio_abi.h) in host order, as on the little-endian hosts that the switch runs on.
type request struct {
	_         uint64 // aio_data
	_, _      uint32 // aio_key, aio_rw_flags
	opcode    uint16
	_         int16 // aio_reqprio
	fd        uint32
	_         [4]uint64 // aio_buf, aio_nbytes, aio_offset, aio_reserved2
	iocbFlags uint32
	resfd     uint32
}

// completion is struct io_event.
type completion struct {
	_ [4]uint64
}

const (
	iocbPread     = 0 // IOCB_CMD_PREAD
	iocbFlagResfd = 1 // IOCB_FLAG_RESFD
)

// signal describes a read of 0 bytes from null whose completion is told to an eventfd.
func (r *request) signal(null, eventfd int) {
	*r = request{opcode: iocbPread, fd: uint32(null), iocbFlags: iocbFlagResfd, resfd: uint32(eventfd)}
}

// The calls below go past the scheduler (RawSyscall), because none of them waits: submitting a read from /dev/null completes it, and events are
// taken as they are. The kernel copies what the pointers name during the call; they point into s, which does not move.

func (s *Signaler) setup() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_IO_SETUP, events, uintptr(unsafe.Pointer(&s.context)), 0)
	return errno
}

func (s *Signaler) destroy() {
	_, _, _ = unix.RawSyscall(unix.SYS_IO_DESTROY, uintptr(s.context), 0, 0)
}

// submit sends n requests from first on and returns how many the kernel took.
func (s *Signaler) submit(first, n int) (int, unix.Errno) {
	took, _, errno := unix.RawSyscall(unix.SYS_IO_SUBMIT, uintptr(s.context), uintptr(n), uintptr(unsafe.Pointer(&s.pointers[first])))
	return int(took), errno
}

// reap takes completions off the context, and returns how many.
func (s *Signaler) reap() int {
	n, _, errno := unix.RawSyscall6(unix.SYS_IO_GETEVENTS, uintptr(s.context), 0, events, uintptr(unsafe.Pointer(&s.taken[0])), 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
