// Package tap is an uplink that ends in a kernel interface: for hosts without a NIC of the switch's own. The interface is a multi-queue TAP
// device; frames leave and enter it as they are, tagged with their port's VLAN.
package tap

import (
	"errors"
	"fmt"

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
	// maxIOV bounds the pieces of a frame; the kernel's own limit is 1024.
	maxIOV = 1024
)

// Config describes the interface.
type Config struct {
	Name   string // at most 15 bytes; may hold %d for a number chosen by the kernel
	Queues int
	MTU    int // bytes; the tag comes on top
}

// Tap is an open interface.
type Tap struct {
	name   string
	queues []*queue
}

// Open makes the interface, or attaches to one that exists, and brings it up.
func Open(c Config) (*Tap, error) {
	t := &Tap{name: c.Name}
	for i := range c.Queues {
		q, name, err := openQueue(t.name)
		if err != nil {
			t.Close()
			return nil, explain(err, t.name, i)
		}
		t.name = name
		t.queues = append(t.queues, q)
	}
	if err := bringUp(t.name, c.MTU); err != nil {
		t.Close()
		return nil, fmt.Errorf("interface %s: %w", t.name, err)
	}
	return t, nil
}

// explain says what to do about the usual errors.
func explain(err error, name string, queue int) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		hint = " (is the tun module loaded? modprobe tun)"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		hint = " (making an interface needs CAP_NET_ADMIN; or let root make it for this user: ip tuntap add NAME mode tap multi_queue user USER)"
	case errors.Is(err, unix.EBUSY):
		hint = " (another process uses it; choose another name)"
	case errors.Is(err, unix.EINVAL):
		hint = " (an interface of that name exists and is no multi-queue TAP; remove it or choose another name)"
	}
	return fmt.Errorf("uplink tap:%s, queue %d: %w%s", name, queue, err, hint)
}

// Name is the interface's name as the kernel knows it.
func (t *Tap) Name() string { return t.name }

// Driver is "tap".
func (t *Tap) Driver() string { return "tap" }

// Queues is the number of queue pairs.
func (t *Tap) Queues() int { return len(t.queues) }

// Queue gives queue pair i.
func (t *Tap) Queue(i int) uplink.Queue { return t.queues[i] }

// Pools is 0: the switch sorts the frames.
func (t *Tap) Pools() int { return 0 }

// AddFilter has nothing to do.
func (t *Tap) AddFilter(int, ether.MAC, uint16) error { return nil }

// RemoveFilter has nothing to do.
func (t *Tap) RemoveFilter(int, ether.MAC, uint16) error { return nil }

// Close removes the interface unless it is persistent.
func (t *Tap) Close() error {
	for _, q := range t.queues {
		unix.Close(q.fd)
		q.buffer.Close()
	}
	t.queues = nil
	return nil
}

// queue is one file of the interface.
type queue struct {
	fd     int
	buffer *guestmem.Buffer // received frames, slots of slotSize; then the virtio-net header and Ethernet header being sent
	iov    []iovec
}

func openQueue(name string) (*queue, string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	fail := func(err error) (*queue, string, error) {
		unix.Close(fd)
		return nil, "", err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fail(fmt.Errorf("interface name %q: %w", name, err))
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
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
	return &queue{fd: fd, buffer: buffer, iov: make([]iovec, maxIOV)}, req.Name(), nil
}

func bringUp(name string, mtu int) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if mtu > 0 {
		req.SetUint32(uint32(mtu))
		if err := unix.IoctlIfreq(s, unix.SIOCSIFMTU, req); err != nil {
			return fmt.Errorf("setting MTU %d: %w", mtu, err)
		}
	}
	if req, err = unix.NewIfreq(name); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("reading its flags: %w", err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bringing it up: %w", err)
	}
	return nil
}

// FD is readable when frames have come.
func (q *queue) FD() int { return q.fd }

// Receive reads frames until there are no more.
func (q *queue) Receive(frames []uplink.RxFrame) (int, error) {
	for n := range frames[:min(len(frames), slots)] {
		slot := q.buffer.Bytes()[n*slotSize : (n+1)*slotSize]
		size, err := unix.Read(q.fd, slot)
		if err != nil {
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				err = nil
			}
			return n, err
		}
		f := &frames[n]
		*f = uplink.RxFrame{Addr: q.buffer.Addr(n*slotSize + vnetHeader), Len: uint32(max(size-vnetHeader, 0))}
		if f.Len >= ether.HeaderLen+ether.TagLen {
			frame := slot[vnetHeader:]
			kind := uint16(frame[12])<<8 | uint16(frame[13])
			if kind == ether.TypeVLAN || kind == ether.TypeQinQ {
				f.Tagged, f.VLAN = true, (uint16(frame[14])<<8|uint16(frame[15]))&0x0fff
			}
		}
	}
	return min(len(frames), slots), nil
}

// Send writes frames, one system call each, straight from their senders' memory.
func (q *queue) Send(frames []uplink.TxFrame) (int, error) {
	for i := range frames {
		switch err := q.write(&frames[i]); {
		case err == nil:
		case errors.Is(err, unix.EFAULT):
			return i, fmt.Errorf("guest memory is gone while its frame was sent: %w", err)
		case errors.Is(err, unix.EINVAL):
			// The kernel does not like what the guest's offload request says: that frame's loss, and not the others'.
		default:
			return i, nil
		}
	}
	return len(frames), nil
}
