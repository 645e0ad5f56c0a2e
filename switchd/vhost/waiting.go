package vhost

import (
	"fmt"

	"vhostkit/switchd/control/names"
)

// tell passes on why no ring runs, when that has changed.
func (d *Device) tell() {
	if reason := d.why(); reason != d.waiting {
		d.waiting = reason
		d.port.Waiting(reason)
	}
}

// why tells which step of setting up the device is missing; empty if a ring runs.
func (d *Device) why() string {
	started, unseen := false, -1
	for i := range d.rings {
		r := &d.rings[i]
		if r.queue != nil {
			return ""
		}
		started = started || r.started
		if r.unseen && unseen < 0 {
			unseen = i
		}
	}
	switch {
	case d.mtu != nil:
		return fmt.Sprintf("refused: %v", d.mtu)
	case unseen >= 0:
		return names.WaitingNotShared + fmt.Sprintf(": vring %d lies in memory that the front-end does not share; each memory backend needs share=on", unseen)
	case !d.acked:
		return "driver not started (no features acknowledged)"
	case !started:
		return "driver not started (no ring runs)"
	case d.memory == nil:
		return "no memory table yet"
	}
	for i := range d.rings {
		r := &d.rings[i]
		if r.started && !r.enabled(d.features) {
			return "no ring enabled"
		}
	}
	return "rings not set up completely (SET_VRING_NUM or SET_VRING_ADDR is missing)"
}
