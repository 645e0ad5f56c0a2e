package tap

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/uplink"
)

const (
	// vnetHeader is the length of the virtio-net header in front of each frame (TUNSETVNETHDRSZ).
	vnetHeader = 12
	// slotSize holds the longest frame that the kernel hands over unsegmented, with its header.
	slotSize = 16 << 10
	slots    = 64
	// maxIOV bounds the pieces of a frame; it is the kernel's own limit.
	maxIOV = 1024
)

// queue is one file of the interface.
type queue struct {
	fd     int
	gone   atomic.Bool      // the interface was removed
	buffer *guestmem.Buffer // received frames, slots of slotSize; then the virtio-net header and Ethernet header being sent
	iov    []iovec
	lost   *counters
}

func openQueue(name string, flags uint16, lost *counters) (*queue, string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", fmt.Errorf("opening /dev/net/tun: %w", noDevice(err))
	}
	fail := func(err error) (*queue, string, error) {
		unix.Close(fd)
		return nil, "", err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fail(fmt.Errorf("interface name %q: %w", name, err))
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fail(fmt.Errorf("TUNSETIFF: %w", err))
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHeader); err != nil {
		return fail(fmt.Errorf("TUNSETVNETHDRSZ: %w", err))
	}
	// No offloads towards us: the kernel completes checksums and segments before it hands over a frame.
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return fail(fmt.Errorf("TUNSETOFFLOAD: %w", err))
	}
	buffer, err := guestmem.NewBuffer((slots + 1) * slotSize)
	if err != nil {
		return fail(err)
	}
	return &queue{fd: fd, buffer: buffer, iov: make([]iovec, maxIOV), lost: lost}, req.Name(), nil
}

// FD is readable when frames have come.
func (q *queue) FD() int { return q.fd }

// Receive reads frames until there are no more.
func (q *queue) Receive(frames []uplink.RxFrame) (int, error) {
	if q.gone.Load() {
		return 0, nil
	}
	frames = frames[:min(len(frames), slots)]
	for n := 0; n < len(frames); {
		size, errno := q.read(n)
		switch {
		case errno == unix.EAGAIN, errno == unix.EINTR:
			return n, nil
		case errno == unix.EBADFD:
			return n, q.detach()
		case errno != 0:
			return n, errno
		case size == slotSize: // there was more, which the kernel cut off
			q.lost.truncated.Add(1)
			continue
		}
		frame := q.buffer.Bytes()[n*slotSize+vnetHeader : n*slotSize+max(size, vnetHeader)]
		f := &frames[n]
		*f = uplink.RxFrame{Addr: q.buffer.Addr(n*slotSize + vnetHeader), Len: uint32(len(frame))}
		f.VLAN, f.Tagged = ether.Tag(frame)
		n++
	}
	return len(frames), nil
}

// detach is called when the interface was removed. The descriptor would be ready for ever then, and whoever sleeps on it would never sleep
// again; an epoll instance without members, which is never ready, takes its number.
func (q *queue) detach() error {
	q.gone.Store(true)
	quiet, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("the interface was removed; epoll_create1 in place of its queue: %w", err)
	}
	defer unix.Close(quiet)
	if err := unix.Dup3(quiet, q.fd, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("the interface was removed; dup3 in place of its queue: %w", err)
	}
	return fmt.Errorf("the interface was removed: %w", uplink.ErrNoDevice)
}

// Send writes frames, one system call each, straight from their senders' memory; the kernel has copied them when it returns.
func (q *queue) Send(frames []uplink.TxFrame, _ *uplink.InFlight) (int, error) {
	if q.gone.Load() {
		q.lost.down.Add(uint64(len(frames)))
		return 0, nil
	}
	for i := range frames {
		switch errno := q.write(&frames[i]); errno {
		case 0:
		case unix.EFAULT:
			return i, fmt.Errorf("guest memory is gone while its frame was sent: %w", errno)
		case unix.EAGAIN, unix.EINTR, unix.ENOBUFS, unix.ENOMEM:
			q.lost.full.Add(uint64(len(frames) - i))
			return i, nil
		case unix.EIO, unix.EBADFD: // down, removed
			q.lost.down.Add(uint64(len(frames) - i))
			return i, nil
		default: // the kernel does not like what the frame asks for: that frame's loss, and not the others'
			q.lost.rejected.Add(1)
		}
	}
	return len(frames), nil
}

// putVnetHeader writes the sender's offload request; positions move by what the tag added to the header. It is false for a request that
// would have the kernel write a checksum into the Ethernet header or the tag, which the switch has checked.
func putVnetHeader(b []byte, f *uplink.TxFrame) bool {
	o := &f.Offload
	clear(b[:vnetHeader])
	if o.Flags == 0 && o.GSOType == 0 {
		return true
	}
	shift := int(f.HeaderLen) - ether.HeaderLen
	start, payload := int(o.CsumStart)+shift, int(f.HeaderLen)
	if shift == 0 && ether.IsTag(binary.BigEndian.Uint16(f.Header[12:])) { // the sender's own tag
		payload += ether.TagLen
	}
	if o.Flags != 0 && (start < payload || start > 0xffff) {
		return false
	}
	b[0], b[1] = o.Flags, o.GSOType
	binary.LittleEndian.PutUint16(b[2:], uint16(min(int(o.HdrLen)+shift, 0xffff)))
	binary.LittleEndian.PutUint16(b[4:], o.GSOSize)
	if o.Flags != 0 {
		binary.LittleEndian.PutUint16(b[6:], uint16(start))
		binary.LittleEndian.PutUint16(b[8:], o.CsumOffset)
	}
	return true
}
