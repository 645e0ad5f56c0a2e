package tap

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/uplink"
)

// iovec is the kernel's struct iovec with an address that is no Go pointer.
type iovec struct {
	base uintptr
	size uint64
}

// write sends one frame: [virtio-net header][our Ethernet header][segments in the sender's memory]. It assumes that the addresses lie outside
// the Go heap (the queue's buffer, guests' memory); what the kernel cannot read there it reports as EFAULT. The call cannot block, as the
// file is non-blocking, so the scheduler need not be told.
func (q *queue) write(f *uplink.TxFrame) error {
	head := slots * slotSize
	b := q.buffer.Bytes()[head : head+vnetHeader+len(f.Header)]
	putVnetHeader(b, f)
	copy(b[vnetHeader:], f.Header[:f.HeaderLen])
	q.iov[0] = iovec{uintptr(q.buffer.Addr(head)), uint64(vnetHeader) + uint64(f.HeaderLen)}
	n := 1
	for _, s := range f.Segs {
		if n == len(q.iov) {
			return unix.EINVAL
		}
		q.iov[n] = iovec{uintptr(s.Addr), uint64(s.Len)}
		n++
	}
	_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(&q.iov[0])), uintptr(n))
	if errno != 0 {
		return errno
	}
	return nil
}

// putVnetHeader writes the sender's offload request; positions move by what the tag added to the header.
func putVnetHeader(b []byte, f *uplink.TxFrame) {
	o := &f.Offload
	clear(b[:vnetHeader])
	if o.Flags == 0 && o.GSOType == 0 {
		return
	}
	shift := uint16(f.HeaderLen) - 14
	b[0], b[1] = o.Flags, o.GSOType
	binary.LittleEndian.PutUint16(b[2:], o.HdrLen+shift)
	binary.LittleEndian.PutUint16(b[4:], o.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], o.CsumStart+shift)
	binary.LittleEndian.PutUint16(b[8:], o.CsumOffset)
}
