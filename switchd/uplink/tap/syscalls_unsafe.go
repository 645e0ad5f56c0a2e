package tap

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/uplink"
)

// Both calls below go to the kernel without telling the scheduler: the file is non-blocking, so they end soon, and a worker that has a thread
// and a core of its own need not offer its place to others for each frame.

// iovec is the kernel's struct iovec with an address that is no Go pointer.
type iovec struct {
	base uintptr
	size uint64
}

// write sends one frame: [virtio-net header][our Ethernet header][segments in the sender's memory]. It assumes that the addresses lie outside
// the Go heap (the queue's buffer, guests' memory); what the kernel cannot read there it reports as EFAULT.
func (q *queue) write(f *uplink.TxFrame) syscall.Errno {
	head := slots * slotSize
	b := q.buffer.Bytes()[head : head+vnetHeader+len(f.Header)]
	if len(f.Segs) >= len(q.iov) || !putVnetHeader(b, f) {
		return unix.EINVAL
	}
	copy(b[vnetHeader:], f.Header[:f.HeaderLen])
	q.iov[0] = iovec{uintptr(q.buffer.Addr(head)), uint64(vnetHeader) + uint64(f.HeaderLen)}
	for i, s := range f.Segs {
		q.iov[i+1] = iovec{uintptr(s.Addr), uint64(s.Len)}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(&q.iov[0])), uintptr(len(f.Segs)+1))
	return errno
}

// read fills a slot with a frame and its virtio-net header and returns their length. It assumes that slot is below slots; the buffer is mapped
// until Close.
func (q *queue) read(slot int) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(q.fd), uintptr(q.buffer.Addr(slot*slotSize)), slotSize)
	return int(n), errno
}
