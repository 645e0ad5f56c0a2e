package forward

import (
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// edgeRing is a ring from the side of a driver that honours every wish of the device and has wishes of its own. Buffer i is descriptor i, for ever:
// buffers are offered in the ring's order, and the switch returns them in it.
type edgeRing struct {
	desc, driver, device guestmem.Ptr
	size                 int
	packed, event, write bool
	avail, used          uint16 // free-running, also of a packed ring
	asked                uint16 // avail at the last look whether to kick
	flags                uint32 // split: of the avail ring
	kick, call           int
	queue                *virtio.Queue
}

// Where the areas lie in a ring's part of the memory.
const (
	edgeDriver = 0x8000
	edgeDevice = 0xa000
	edgeData   = 0x10000
	edgeBytes  = 0x30000
)

func newEdgeRing(tb testing.TB, m *guestmem.Memory, base uint64, size int, write bool, f virtio.Features) *edgeRing {
	tb.Helper()
	at, ok := m.User(base, edgeBytes)
	if !ok {
		tb.Fatalf("offset %#x is outside the memory", base)
	}
	r := &edgeRing{
		desc: at, driver: at + edgeDriver, device: at + edgeDevice, size: size, write: write,
		packed: f.Has(virtio.VIRTIO_F_RING_PACKED), event: f.Has(virtio.VIRTIO_F_EVENT_IDX), kick: newEventfd(tb), call: newEventfd(tb),
	}
	for i := range size {
		d := r.desc + ptr(16*i)
		d.StoreU64(base + edgeData + uint64(i*rigBuffer))
		(d + 8).StoreU64(r.second(i))
		if !r.packed {
			(r.driver + 4 + ptr(2*i)).StoreU16(uint16(i))
		}
	}
	var err error
	r.queue, err = virtio.NewQueue(virtio.Config{
		Size: uint32(size), Features: f, Receive: write, Desc: r.desc, Driver: r.driver, Device: r.device, Memory: m,
		State: virtio.State{AvailWrap: r.packed}, Kick: r.kick, Call: r.call,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// second is a descriptor's second half, without the flags that make it available: {len, flags, next}, or {len, id, flags} of a packed ring.
func (r *edgeRing) second(i int) uint64 {
	if !r.write {
		return uint64(rigHeader+edgeFrame) | r.packedID(i)
	}
	if r.packed {
		return rigBuffer | r.packedID(i) | 2<<48
	}
	return rigBuffer | 2<<32
}

func (r *edgeRing) packedID(i int) uint64 {
	if r.packed {
		return uint64(i) << 32
	}
	return 0
}

// round tells whether the wrap counter is set at a free-running position.
func (r *edgeRing) round(at uint16) bool { return int(at)/r.size%2 == 0 }

// offer makes the next n buffers available.
func (r *edgeRing) offer(n int) {
	if !r.packed {
		r.avail += uint16(n)
		r.driver.StoreReleaseU32(r.flags | uint32(r.avail)<<16)
		return
	}
	for range n {
		i, flag := int(r.avail)%r.size, uint64(1<<15)
		if r.round(r.avail) {
			flag = 1 << 7
		}
		(r.desc + ptr(16*i+8)).StoreReleaseU64(r.second(i) | flag<<48)
		r.avail++
	}
}

// kickDue tells whether the device wants to hear of what was offered since the last time. A full fence comes first.
func (r *edgeRing) kickDue() bool {
	before := r.asked
	r.asked = r.avail
	switch {
	case r.packed:
		return (r.device+2).LoadU16()&3 != 1
	case r.event:
		event := (r.device + 4 + ptr(8*r.size)).LoadU16()
		return r.avail-event-1 < r.avail-before
	default:
		return r.device.LoadU16()&1 == 0
	}
}

// back tells whether the device has returned the buffer at a free-running position, the oldest that it had or a later one.
func (r *edgeRing) back(at uint16) bool {
	if !r.packed {
		return int16(uint16(r.device.LoadAcquireU32()>>16)-at) > 0
	}
	word := (r.desc + ptr(16*(int(at)%r.size)+8)).LoadAcquireU64()
	wrap := r.round(at)
	return word>>55&1 == 1 == wrap && word>>63 == 1 == wrap
}

// collect takes what came back.
func (r *edgeRing) collect() (n int) {
	for r.used != r.avail && r.back(r.used) {
		r.used++
		n++
	}
	return n
}

// never asks for no calls.
func (r *edgeRing) never() {
	switch {
	case r.packed:
		r.driver.StoreReleaseU32(1 << 16)
	case r.event:
		r.usedEvent(r.used - 1) // passed already
	default:
		r.setFlags(1)
	}
}

// want asks for a call when the buffer at a free-running position is back; without event index, when any is.
func (r *edgeRing) want(at uint16) {
	switch {
	case r.packed && r.event:
		word := uint32(at)%uint32(r.size) | 2<<16
		if r.round(at) {
			word |= 1 << 15
		}
		r.driver.StoreReleaseU32(word)
	case r.packed:
		r.driver.StoreReleaseU32(0)
	case r.event:
		r.usedEvent(at)
	default:
		r.setFlags(0)
	}
}

func (r *edgeRing) usedEvent(v uint16) { (r.driver + 4 + ptr(2*r.size)).StoreU16(v) }

func (r *edgeRing) setFlags(v uint32) {
	r.flags = v
	r.driver.StoreReleaseU32(v | uint32(r.avail)<<16)
}

// called waits for the call descriptor, for so many milliseconds, and takes what is in it.
func (r *edgeRing) called(limit int) (bool, error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(r.call), Events: unix.POLLIN}}, limit)
		if err == unix.EINTR {
			continue
		}
		if n == 1 && err == nil {
			var count [8]byte
			_, err = unix.Read(r.call, count[:])
		}
		return n == 1, err
	}
}
