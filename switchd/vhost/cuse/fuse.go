package cuse

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// errProtocol is wrapped by errors about messages that the kernel would not send.
var errProtocol = errors.New("bad FUSE message")

// Operations (linux/fuse.h, enum fuse_opcode).
const (
	FUSE_OPEN      = 14
	FUSE_RELEASE   = 18
	FUSE_INTERRUPT = 36
	FUSE_DESTROY   = 38
	FUSE_IOCTL     = 39
	CUSE_INIT      = 4096
)

// Flags of FUSE_IOCTL and of its answer.
const (
	FUSE_IOCTL_COMPAT       = 1 << 0
	FUSE_IOCTL_UNRESTRICTED = 1 << 1
	FUSE_IOCTL_RETRY        = 1 << 2
	FUSE_IOCTL_32BIT        = 1 << 3
)

// CUSE_UNRESTRICTED_IOCTL of cuse_init_in and cuse_init_out: an ioctl may ask for memory of its caller that its number does not tell.
const CUSE_UNRESTRICTED_IOCTL = 1

// Sizes in bytes of the structures that are used here.
const (
	inHeaderSize  = 40 // fuse_in_header
	outHeaderSize = 16 // fuse_out_header
	initInSize    = 16 // cuse_init_in
	ioctlInSize   = 32 // fuse_ioctl_in
	releaseInSize = 24 // fuse_release_in
)

// What is negotiated: the version of the protocol that this package speaks, and the size of reads and writes, which vhost does not use.
const (
	protocolMajor = 7
	protocolMinor = 31
	lowestMinor   = 16 // since then the answer to an ioctl describes memory in the same form for all callers
	maxTransfer   = 4096
)

// readSize is the buffer for a request. The largest is a memory table of vhost.MaxMemorySlots regions; the kernel wants at least 8192.
const readSize = 64 << 10

// inHeader is fuse_in_header: what every request begins with.
type inHeader struct {
	Opcode   uint32
	Unique   uint64
	UID, GID uint32
	TID      uint32 // the thread that waits for the answer; 0 if it is outside of our PID namespace
}

// decodeRequest takes a message of the kernel apart. body is part of b.
func decodeRequest(b []byte) (h inHeader, body []byte, err error) {
	if len(b) < inHeaderSize {
		return h, nil, fmt.Errorf("%w: %d bytes, a header has %d", errProtocol, len(b), inHeaderSize)
	}
	e := binary.NativeEndian
	if n := e.Uint32(b); uint64(n) != uint64(len(b)) {
		return h, nil, fmt.Errorf("%w: %d bytes say that they are %d", errProtocol, len(b), n)
	}
	h = inHeader{Opcode: e.Uint32(b[4:]), Unique: e.Uint64(b[8:]), UID: e.Uint32(b[24:]), GID: e.Uint32(b[28:]), TID: e.Uint32(b[32:])}
	return h, b[inHeaderSize:], nil
}

// ioctlIn is fuse_ioctl_in with the data behind it.
type ioctlIn struct {
	Handle  uint64
	Flags   uint32
	Cmd     uint32
	Arg     uint64 // the ioctl's third argument: an address of the caller's
	OutSize uint32 // how many bytes the kernel will take back
	Data    []byte
}

func decodeIoctl(body []byte) (in ioctlIn, err error) {
	if len(body) < ioctlInSize {
		return in, fmt.Errorf("%w: ioctl of %d bytes, want at least %d", errProtocol, len(body), ioctlInSize)
	}
	e := binary.NativeEndian
	in = ioctlIn{
		Handle: e.Uint64(body), Flags: e.Uint32(body[8:]), Cmd: e.Uint32(body[12:]), Arg: e.Uint64(body[16:]),
		OutSize: e.Uint32(body[28:]), Data: body[ioctlInSize:],
	}
	if n := e.Uint32(body[24:]); uint64(n) != uint64(len(in.Data)) {
		return in, fmt.Errorf("%w: ioctl with %d bytes of data that say that they are %d", errProtocol, len(in.Data), n)
	}
	return in, nil
}

// span is fuse_ioctl_iovec: memory of the caller that the kernel copies.
type span struct{ Base, Len uint64 }

// begin starts an answer; seal completes it.
func begin(unique uint64, result unix.Errno) []byte {
	b := binary.NativeEndian.AppendUint32(make([]byte, 0, 64), 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(-int32(result)))
	return binary.NativeEndian.AppendUint64(b, unique)
}

func seal(b []byte) []byte {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

// answerError ends a request with an error, or with success and nothing to tell (0).
func answerError(unique uint64, result unix.Errno) []byte { return seal(begin(unique, result)) }

// answerOpen is fuse_open_out.
func answerOpen(unique, handle uint64) []byte {
	b := binary.NativeEndian.AppendUint64(begin(unique, 0), handle)
	return seal(append(b, make([]byte, 8)...))
}

// answerIoctl is fuse_ioctl_out of a completed ioctl, with the data that the caller gets.
func answerIoctl(unique uint64, data []byte) []byte {
	b := append(begin(unique, 0), make([]byte, 16)...)
	return seal(append(b, data...))
}

// answerRetry has the kernel send the ioctl again, with the memory of its caller that is named here.
func answerRetry(unique uint64, in, out []span) []byte {
	e := binary.NativeEndian
	b := e.AppendUint32(begin(unique, 0), 0)
	b = e.AppendUint32(b, FUSE_IOCTL_RETRY)
	b = e.AppendUint32(b, uint32(len(in)))
	b = e.AppendUint32(b, uint32(len(out)))
	for _, list := range [][]span{in, out} {
		for _, s := range list {
			b = e.AppendUint64(e.AppendUint64(b, s.Base), s.Len)
		}
	}
	return seal(b)
}

// answerInit takes cuse_init_in and makes cuse_init_out, followed by the device's name.
func answerInit(h inHeader, body []byte, name string) ([]byte, error) {
	if h.Opcode != CUSE_INIT || len(body) < initInSize {
		return nil, fmt.Errorf("%w: operation %d of %d bytes where CUSE_INIT is wanted", errProtocol, h.Opcode, len(body))
	}
	e := binary.NativeEndian
	major, minor, flags := e.Uint32(body), e.Uint32(body[4:]), e.Uint32(body[12:])
	if major != protocolMajor || minor < lowestMinor {
		return nil, fmt.Errorf("the kernel speaks version %d.%d of FUSE, version %d.%d or later is wanted", major, minor, protocolMajor, lowestMinor)
	}
	if flags&CUSE_UNRESTRICTED_IOCTL == 0 {
		return nil, errors.New("the kernel's CUSE has no unrestricted ioctls")
	}
	b := begin(h.Unique, 0)
	for _, v := range []uint32{protocolMajor, min(minor, protocolMinor), 0, CUSE_UNRESTRICTED_IOCTL, maxTransfer, maxTransfer} {
		b = e.AppendUint32(b, v)
	}
	b = append(b, make([]byte, 4*2+4*10)...) // dev_major, dev_minor: the kernel chooses; spare
	return seal(append(b, "DEVNAME="+name+"\x00"...)), nil
}

// handleOf is the file handle that fuse_release_in begins with.
func handleOf(body []byte) uint64 { return binary.NativeEndian.Uint64(body) }
