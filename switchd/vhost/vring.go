package vhost

import (
	"errors"
	"fmt"
	"time"

	"vhostkit/switchd/virtio"
)

// at checks a vring index from the front-end.
func (d *Device) at(index uint32) (*ring, error) {
	if index >= uint32(len(d.rings)) {
		return nil, fmt.Errorf("vring %d, but the device has %d (option --max-queue-pairs)", index, len(d.rings))
	}
	return &d.rings[index], nil
}

// change stops a ring, applies the change, and has the ring looked at again. What repeats what is there already must not come here: it would
// stop the ring for nothing.
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
	if r, err := d.at(index); err == nil && size > 0 && r.size == size {
		return nil
	}
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
	if r, err := d.at(index); err == nil && r.addresses != nil && *r.addresses == a {
		return nil
	}
	return d.change(index, func(r *ring) error {
		d.forgetPlace(r)
		r.addresses = &a
		return nil
	})
}

// SetVringBase sets where to go on in the ring (ring.position has the format). For a running ring that is a change even if the number is the
// one from its start.
func (d *Device) SetVringBase(index, base uint32) error {
	return d.change(index, func(r *ring) error {
		r.base = &base
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
	packed := d.features.Has(virtio.VIRTIO_F_RING_PACKED)
	return encodeBase(r.position(packed), packed), nil
}

// SetVringKick starts the ring. fd is -1 if the ring is to be polled.
func (d *Device) SetVringKick(index uint32, fd int) error {
	err := d.change(index, func(r *ring) error {
		if fd >= 0 {
			if err := checkEventFD(fd); err != nil {
				return fmt.Errorf("SET_VRING_KICK: vring %d: %w", index, err)
			}
		}
		d.options.Files.Close(r.kick)
		r.kick, r.started = fd, true
		return nil
	})
	if err != nil {
		d.options.Files.Close(fd)
	}
	return err
}

// SetVringErr takes where errors of the ring could be signalled, which the protocol leaves to the back-end. Nothing is: a broken ring
// ends the device, which the front-end sees, and a front-end that makes its eventfd block would hold up the end of its own device.
func (d *Device) SetVringErr(index uint32, fd int) error {
	defer d.options.Files.Close(fd)
	if _, err := d.at(index); err != nil {
		return fmt.Errorf("SET_VRING_ERR: %w", err)
	}
	if fd < 0 {
		return nil
	}
	if err := checkEventFD(fd); err != nil {
		return fmt.Errorf("SET_VRING_ERR: vring %d: %w", index, err)
	}
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
	r.entry = noEntry
}

// stop takes a running ring from the data plane and keeps its position.
func (d *Device) stop(r *ring) {
	if r.queue == nil {
		return
	}
	q := r.queue
	r.queue = nil
	d.push()
	r.remember(q)
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
		r.remember(queues[i])
	}
	d.dirty = true
}

// push tells the data plane which rings run. Without any it gets no memory either, which may then be closed.
func (d *Device) push() {
	u := Update{Features: d.features, ProtocolFeatures: d.protocol, Rings: make([]*virtio.Queue, len(d.rings))}
	for i := range d.rings {
		if q := d.rings[i].queue; q != nil {
			u.Rings[i], u.Memory = q, d.memory
		}
	}
	d.pace.wait(time.Now())
	d.port.Update(u)
}

// Refresh starts the rings that have become complete and stops those that were disabled. The transport calls it after each message. A
// malformed ring is an error. One that lies outside the shared memory stays stopped until that changes, and the log says so.
func (d *Device) Refresh() error {
	defer d.tell()
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
				d.warnNotShared(r, err)
				continue
			}
			if err != nil {
				return err
			}
			r.queue, r.unseen, started = q, false, true
			d.warm(r)
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

// maxWarnings bounds how much a front-end can make a device log about its rings.
const maxWarnings = 16

// warnNotShared says once that a ring cannot run, not after each message that follows.
func (d *Device) warnNotShared(r *ring, err error) {
	if r.unseen || d.warnings >= maxWarnings {
		return
	}
	r.unseen = true
	d.warnings++
	d.log.Error("a ring does not run, so no frames pass; does the front-end share all of the guest's memory?", "error", err)
}
