package vhost

import (
	"time"

	"vhostkit/switchd/guestmem"
)

// warming is what a device has done so that the workers do not fault on its guest's pages.
type warming struct {
	filling *guestmem.Filling // populates the whole memory, behind
	memory  *guestmem.Memory  // that the rest is about
	left    time.Duration     // for populating buffers before rings start
}

// maxWarming bounds how much later the rings of a memory start because their buffers are populated first: 256 buffers take less than a
// millisecond, but a ring may have 32768, and a device many rings.
const maxWarming = 100 * time.Millisecond

// warm populates a ring that is about to start and the buffers in it, and has the rest of the guest's memory populated behind that. This runs
// on the session's goroutine: it is this device that waits.
func (d *Device) warm(r *ring) {
	w := &d.warming
	if w.memory != d.memory {
		w.stop()
		w.memory, w.left = d.memory, maxWarming
	}
	if begin := time.Now(); w.left > 0 {
		d.options.Populator.Urgently(w.left, func() { d.warmRing(r, begin.Add(w.left)) })
		w.left -= time.Since(begin)
	}
	// Once for all rings that start together; again when the guest starts anew, which may have given pages back meanwhile.
	if d.running() == 1 && !w.filling.Active() {
		w.filling = d.options.Populator.Fill(d.memory)
	}
}

func (d *Device) warmRing(r *ring, deadline time.Time) {
	r.queue.RequireAreas()
	list := d.memory.Ranges()
	if d.port.Touch(func() { r.queue.Posted(list) }) == nil { // else the worker finds out, and says so
		list.Populate(deadline)
	}
}

func (w *warming) stop() {
	w.filling.Stop()
	w.filling, w.memory = nil, nil
}

// running counts the rings that run.
func (d *Device) running() (n int) {
	for i := range d.rings {
		if d.rings[i].queue != nil {
			n++
		}
	}
	return n
}
