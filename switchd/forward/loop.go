package forward

import (
	"maps"

	"vhostkit/switchd/ether"
)

// With --vm2vm 2 the NIC's own switch moves frames between guests. It knows an address once its filter is set, which the control side does a
// moment after the switch has learned it, and not at all when there are more ports or addresses than the NIC holds. What it does not know is
// delivered here, as with --vm2vm 1; and so is what is for everybody, because each guest has a VLAN of its own, and the NIC copies a
// broadcast only within one.

// hardwareAddresses are those that the NIC loops frames to: replaced as a whole, and only read by the workers.
type hardwareAddresses map[ether.MAC]bool

// setHardware notes whether the NIC knows an address. Called from the event goroutine only.
func (s *Switch) setHardware(mac ether.MAC, known bool) {
	old := s.hardware.Load()
	if known == (*old)[mac] {
		return
	}
	next := maps.Clone(*old)
	if known {
		next[mac] = true
	} else {
		delete(next, mac)
	}
	s.hardware.Store(&next)
}

// loops tells whether the NIC takes a frame between these local addresses from one to the other.
func (s *Switch) loops(from, to ether.MAC) bool {
	known := *s.hardware.Load()
	return known[to] && known[from]
}

// loopVLAN is the tag with which the NIC takes the frame to a local port: the destination's. A tag of the guest's own stays behind it.
func (w *worker) loopVLAN(f *frame) (uint16, bool) {
	if w.sw.config.VM2VM != VM2VMHardware {
		return 0, false
	}
	to := f.destination()
	if to.IsMulticast() {
		return 0, false
	}
	_, port := w.addresses.find(to)
	return uint16(w.sw.config.VLANBase + port), port >= 0
}

// ownLooped tells whether a frame for everybody that came in for a port is the port's own. A NIC that switches does not give it back to the
// pool that it came from, but frames of ports without a pool come from nobody's.
func (w *worker) ownLooped(f *frame, port int) bool {
	if w.sw.config.VM2VM != VM2VMHardware {
		return false
	}
	_, owner := w.addresses.find(f.source())
	return owner == port
}
