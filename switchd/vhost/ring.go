package vhost

import (
	"errors"
	"fmt"

	"vhostkit/switchd/foreign"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// errNotShared says that a ring lies where the switch cannot see it.
var errNotShared = errors.New("not in the shared memory")

// RingAddresses are where the front-end has put a ring, as addresses of its own (SET_VRING_ADDR).
type RingAddresses struct{ Desc, Used, Avail uint64 }

// ring is what the front-end has said about a vring so far.
type ring struct {
	size       uint32
	addresses  *RingAddresses
	base       *uint32 // where to go on, as SET_VRING_BASE has it; nil: at the beginning
	kick, call int     // descriptors, -1 for none
	callSocket bool    // call is a socket, not an eventfd
	started    bool    // SET_VRING_KICK came, GET_VRING_BASE did not since
	enable     *bool
	unseen     bool          // the log says already that it is not in the shared memory
	queue      *virtio.Queue // while it runs
	entry      entry         // in the journal, from the first start until the front-end takes the position back
}

func newRing() ring { return ring{kick: -1, call: -1, entry: noEntry} }

func (r *ring) close(files *foreign.Files) {
	files.Close(r.kick, r.call)
	r.kick, r.call = -1, -1
}

// enabled: without protocol features a ring is enabled from the start, with them by SET_VRING_ENABLE.
func (r *ring) enabled(features virtio.Features) bool {
	if r.enable != nil {
		return *r.enable
	}
	return !features.Has(virtio.VHOST_USER_F_PROTOCOL)
}

// complete tells whether everything is there that a running ring needs.
func (r *ring) complete(features virtio.Features) bool {
	return r.started && r.size > 0 && r.addresses != nil && r.enabled(features)
}

// position decodes the vring base. It waits for the ring's start because the meaning depends on features that may come later. For split
// rings the base is the avail index. For packed rings bits 0..14 are the next position and bit 15 its wrap counter, which begins as 1; the
// upper half, the used position, is the same in this device.
func (r *ring) position(packed bool) virtio.State {
	switch {
	case !packed && r.base == nil:
		return virtio.State{}
	case !packed:
		return virtio.State{Avail: uint16(*r.base)}
	case r.base == nil:
		return virtio.State{AvailWrap: true}
	}
	return virtio.State{Avail: uint16(*r.base & 0x7fff), AvailWrap: *r.base&0x8000 != 0}
}

// encodeBase is the reverse of position.
func encodeBase(s virtio.State, packed bool) uint32 {
	base := uint32(s.Avail)
	if packed {
		if s.AvailWrap {
			base |= 0x8000
		}
		base |= base << 16
	}
	return base
}

// remember takes over the position of the queue that ran the ring.
func (r *ring) remember(q *virtio.Queue) {
	base := encodeBase(q.State(), q.Packed())
	r.base = &base
}

// makeQueue translates the ring's addresses.
func (r *ring) makeQueue(index int, features virtio.Features, memory *guestmem.Memory, journal *Journal) (*virtio.Queue, error) {
	packed := features.Has(virtio.VIRTIO_F_RING_PACKED)
	descSize, driverSize, deviceSize := virtio.AreaSizes(r.size, packed)
	desc, ok1 := memory.User(r.addresses.Desc, descSize)
	driver, ok2 := memory.User(r.addresses.Avail, driverSize)
	device, ok3 := memory.User(r.addresses.Used, deviceSize)
	if !ok1 || !ok2 || !ok3 {
		return nil, fmt.Errorf("%w: vring %d of %d descriptors at user addresses desc %#x, avail %#x, used %#x", errNotShared, index,
			r.size, r.addresses.Desc, r.addresses.Avail, r.addresses.Used)
	}
	resume := uint64(0)
	if region, offset, ok := memory.FindUser(r.addresses.Desc); ok && packed && r.entry.index < 0 {
		r.entry, resume = journal.claim(region, offset, r.size)
	}
	q, err := virtio.NewQueue(virtio.Config{
		Size: r.size, Features: features, Receive: index%2 == 0, Desc: desc, Driver: driver, Device: device,
		Memory: memory, State: r.position(packed), Journal: r.entry.at, Resume: resume, Kick: r.kick, Call: r.call,
		CallSocket: r.callSocket,
	})
	if err != nil {
		return nil, fmt.Errorf("vring %d: %w", index, err)
	}
	return q, nil
}
