// Package tap is an uplink that ends in a kernel interface: for hosts without a NIC of the switch's own. The interface is a multi-queue TAP
// device; frames leave and enter it as they are, tagged with their port's VLAN.
package tap

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
)

const (
	// maxQueues is the kernel's MAX_TAP_QUEUES.
	maxQueues = 256
	// maxMTU is what fits into a slot with the virtio-net header, the Ethernet header and two tags; a slot that is full to the last byte
	// counts as truncated.
	maxMTU = slotSize - 1 - vnetHeader - ether.HeaderLen - 2*ether.TagLen
	// handover is how long Open waits for a process that is just ending to let go of the interface.
	handover = time.Second
)

// Config describes the interface.
type Config struct {
	Name   string // at most 15 bytes; may hold %d for a number chosen by the kernel
	Queues int    // 1 to 256; an existing interface that is not multi-queue is opened with one, whatever is asked for
	MTU    int    // bytes, at most 16349; the tag comes on top. 0: as it is
}

// Tap is an open interface.
type Tap struct {
	name   string
	queues []*queue
	counters
}

// Open makes the interface, or attaches to a persistent one that nobody uses, and brings it up.
func Open(c Config) (*Tap, error) {
	if c.Queues < 1 || c.Queues > maxQueues || c.MTU < 0 || c.MTU > maxMTU {
		return nil, fmt.Errorf("uplink tap:%s: %d queues, MTU %d: wanted are 1 to %d queues and an MTU up to %d",
			c.Name, c.Queues, c.MTU, maxQueues, maxMTU)
	}
	flags, queues := uint16(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR|unix.IFF_MULTI_QUEUE), c.Queues
	existing, err := awaitUnused(c.Name)
	if err != nil {
		return nil, explain(err, c.Name, 0)
	}
	if existing != nil && existing.singleQueue {
		flags, queues = flags&^unix.IFF_MULTI_QUEUE, 1
	}
	t := &Tap{name: c.Name}
	for i := range queues {
		q, name, err := openQueue(t.name, flags, &t.counters)
		if err != nil {
			t.Close()
			return nil, explain(err, t.name, i)
		}
		t.name = name
		t.queues = append(t.queues, q)
	}
	if err := bringUp(t.name, c.MTU); err != nil {
		t.Close()
		return nil, explain(err, t.name, 0)
	}
	return t, nil
}

// awaitUnused finds the interface and refuses it if it cannot be the switch's own. The kernel would let a second process attach to a
// multi-queue TAP, and each would get a part of the frames. nil: there is no such interface yet.
func awaitUnused(name string) (*netInterface, error) {
	for end := time.Now().Add(handover); ; time.Sleep(20 * time.Millisecond) {
		existing, err := findInterface(name)
		switch {
		case errors.Is(err, uplink.ErrNoDevice):
			return nil, nil
		case err != nil:
			return nil, err
		case existing.kind != "tun" || existing.tun && !existing.tap:
			return nil, fmt.Errorf("it is not a TAP: %w", unix.EINVAL)
		case existing.attached == 0:
			return existing, nil
		case time.Now().After(end):
			return nil, fmt.Errorf("%d of its queues are open: %w", existing.attached, unix.EBUSY)
		}
	}
}

// explain says what to do about the usual errors.
func explain(err error, name string, queue int) error {
	hint := ""
	switch {
	case errors.Is(err, uplink.ErrNoDevice):
		hint = " (is the tun module loaded? modprobe tun)"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		hint = " (making an interface needs CAP_NET_ADMIN; or let root make it for this user: ip tuntap add NAME mode tap multi_queue user USER)"
	case errors.Is(err, unix.EBUSY):
		hint = " (another process uses it; stop that one or choose another name)"
	case errors.Is(err, unix.EINVAL):
		hint = " (an interface of that name exists and is none that the switch can use; remove it or choose another name)"
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

// Link asks the kernel. The carrier of a TAP is on while the switch has it open.
func (t *Tap) Link() (uplink.Link, error) {
	i, err := findInterface(t.name)
	if err != nil {
		return uplink.Link{}, err
	}
	return uplink.Link{Up: i.up, Carrier: i.carrier, MTU: i.mtu}, nil
}

// Counters lists what was lost here.
func (t *Tap) Counters() []uplink.Counter { return t.counters.list() }

// Close removes the interface unless it is persistent. Nobody may be sending or receiving.
func (t *Tap) Close() error {
	for _, q := range t.queues {
		unix.Close(q.fd)
		q.buffer.Close()
	}
	t.queues = nil
	return nil
}
