package vhost

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/virtio"
)

// at checks a vring index from the front-end.
func (d *Device) at(index uint32) (*ring, error) {
	if index >= uint32(len(d.rings)) {
		return nil, fmt.Errorf("vring %d, but the device has %d (option --max-queue-pairs)", index, len(d.rings))
	}
	return &d.rings[index], nil
}

// change stops a ring, applies the change, and has the ring looked at again.
func (d *Device) change(index uint32, apply func(*ring) error) error {
	r, err := d.at(index)
	if err != nil {
		return err
	}
	d.stop(r)
	d.dirty = true
	return apply(r)
}

// SetVringNum sets the number of descriptors.
func (d *Device) SetVringNum(index, size uint32) error {
	return d.change(index, func(r *ring) error {
		if size == 0 || size > virtio.MaxQueueSize {
			return fmt.Errorf("SET_VRING_NUM: vring %d: %d is not in 1..%d", index, size, virtio.MaxQueueSize)
		}
		r.size = size
		return nil
	})
}

// SetVringAddr sets where the ring lies.
func (d *Device) SetVringAddr(index uint32, a RingAddresses) error {
	return d.change(index, func(r *ring) error {
		if r.addresses == nil || *r.addresses != a {
			d.forgetPlace(r)
		}
		r.addresses = &a
		return nil
	})
}

// SetVringBase sets where to go on in the ring: for split rings the avail index, for packed rings bits 0..14 position and bit 15 wrap counter
// (the upper half, the used position, is the same in this device).
func (d *Device) SetVringBase(index, base uint32) error {
	return d.change(index, func(r *ring) error {
		if d.features.Has(virtio.VIRTIO_F_RING_PACKED) {
			r.state = virtio.State{Avail: uint16(base & 0x7fff), AvailWrap: base&0x8000 != 0}
		} else {
			r.state = virtio.State{Avail: uint16(base)}
		}
		return nil
	})
}

// VringBase stops the ring and tells where it stood, in the form of SetVringBase.
func (d *Device) VringBase(index uint32) (uint32, error) {
	r, err := d.at(index)
	if err != nil {
		return 0, err
	}
	d.stop(r)
	r.started = false
	d.forgetPlace(r)
	base := uint32(r.state.Avail)
	if d.features.Has(virtio.VIRTIO_F_RING_PACKED) {
		if r.state.AvailWrap {
			base |= 0x8000
		}
		base |= base << 16
	}
	return base, nil
}

// SetVringKick starts the ring. fd is -1 if the ring is to be polled.
func (d *Device) SetVringKick(index uint32, fd int) error {
	err := d.change(index, func(r *ring) error {
		if fd >= 0 {
			if err := checkEventFD(fd); err != nil {
				return fmt.Errorf("SET_VRING_KICK: vring %d: %w", index, err)
			}
		}
		CloseFDs(r.kick)
		r.kick, r.started = fd, true
		return nil
	})
	if err != nil {
		CloseFDs(fd)
	}
	return err
}

// SetVringCall sets how the driver is woken; -1: it polls.
func (d *Device) SetVringCall(index uint32, fd int) error {
	err := d.change(index, func(r *ring) error {
		if fd >= 0 {
			if err := checkEventFD(fd); err != nil {
				return fmt.Errorf("SET_VRING_CALL: vring %d: %w", index, err)
			}
		}
		CloseFDs(r.call)
		r.call = fd
		return nil
	})
	if err != nil {
		CloseFDs(fd)
	}
	return err
}

// SetVringErr sets where errors of the ring are signalled.
func (d *Device) SetVringErr(index uint32, fd int) error {
	r, err := d.at(index)
	if err == nil && fd >= 0 {
		err = checkEventFD(fd)
	}
	if err != nil {
		CloseFDs(fd)
		return err
	}
	CloseFDs(r.errorFD)
	r.errorFD = fd
	return nil
}

// SetVringEnable enables or disables a ring, running or not.
func (d *Device) SetVringEnable(index uint32, enable bool) error {
	r, err := d.at(index)
	if err != nil {
		return err
	}
	if r.enable == nil || *r.enable != enable {
		r.enable = &enable
		d.dirty = true
	}
	return nil
}

// forgetPlace: the front-end knows where the ring stands, or does not want it any more.
func (d *Device) forgetPlace(r *ring) {
	d.journal.release(r.entry, false)
	r.entry = entry{index: -1}
}

// SignalErrors wakes who listens for errors of the rings, after the data plane has stopped the device.
func (d *Device) SignalErrors() {
	for _, r := range d.rings {
		if r.errorFD >= 0 {
			_, _ = unix.Write(r.errorFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		}
	}
}

// stop takes a running ring from the data plane and keeps its position.
func (d *Device) stop(r *ring) {
	if r.queue == nil {
		return
	}
	q := r.queue
	r.queue = nil
	d.push()
	r.state = q.State()
	d.dirty = true
}

func (d *Device) stopAll() {
	var stopped []*ring
	var queues []*virtio.Queue
	for i := range d.rings {
		if r := &d.rings[i]; r.queue != nil {
			stopped, queues = append(stopped, r), append(queues, r.queue)
			r.queue = nil
		}
	}
	if len(stopped) == 0 {
		return
	}
	d.push()
	for i, r := range stopped {
		r.state = queues[i].State()
	}
	d.dirty = true
}

// push tells the data plane which rings run.
func (d *Device) push() {
	u := Update{Features: d.features, ProtocolFeatures: d.protocol, Memory: d.memory, Rings: make([]*virtio.Queue, len(d.rings))}
	for i := range d.rings {
		u.Rings[i] = d.rings[i].queue
	}
	d.port.Update(u)
}

// Refresh starts the rings that have become complete and stops those that were disabled. The transport calls it after each message. A
// malformed ring is an error. One that lies outside the shared memory stays stopped until that changes, and the log says so.
func (d *Device) Refresh() error {
	if !d.dirty {
		return nil
	}
	d.dirty = false
	started := false
	for i := range d.rings {
		r := &d.rings[i]
		complete := d.acked && d.memory != nil && r.complete(d.features)
		switch {
		case complete && r.queue == nil:
			q, err := r.makeQueue(i, d.features, d.memory, d.journal)
			if errors.Is(err, errNotShared) {
				d.log.Error("a ring does not run, so no frames pass; does the front-end share all of the guest's memory?", "error", err)
				continue
			}
			if err != nil {
				return err
			}
			r.queue, started = q, true
		case !complete && r.queue != nil:
			d.stop(r)
		}
	}
	d.dirty = false
	if started {
		d.push()
	}
	return nil
}
