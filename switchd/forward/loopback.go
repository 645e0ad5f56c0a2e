package forward

import (
	"maps"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/policy"
)

// With --vm2vm 2 the NIC's own switch moves frames between guests. It knows an address once its filter is set, which the control side does a
// moment after the switch has learned it, and not at all when there are more ports or addresses than the NIC holds. What it does not know is
// delivered here, as with --vm2vm 1; and so is what is for everybody, because each guest has a VLAN of its own, and the NIC copies a
// broadcast only within one.

// hardwareAddresses are those that the NIC loops frames to, and the port whose pool each is in: replaced as a whole, and only read by the workers.
type hardwareAddresses map[ether.MAC]PortID

// setHardware notes the port to which the NIC takes an address; noPort if it does not know the address. Called from the event goroutine
// only.
func (s *Switch) setHardware(mac ether.MAC, port PortID) {
	old := *s.hardware.Load()
	if before, known := old[mac]; known && before == port || !known && port < 0 {
		return
	}
	next := maps.Clone(old)
	if port >= 0 {
		next[mac] = port
	} else {
		delete(next, mac)
	}
	s.hardware.Store(&next)
}

// loopVLAN is the tag with which the NIC takes a frame from one of a port's addresses to another port: the destination's. A tag of the guest's own
// stays behind it. It is 0 if the NIC does not know both addresses to be where the switch has them, as shortly after one has moved.
func (s *Switch) loopVLAN(from ether.MAC, sender PortID, to ether.MAC, port PortID) ether.VLAN {
	known := *s.hardware.Load()
	if p, ok := known[to]; !ok || p != port {
		return 0
	}
	if p, ok := known[from]; !ok || p != sender {
		return 0
	}
	return s.config.vlanOf(port)
}

// ownLooped tells whether a frame for everybody that came in for a port is the port's own. A NIC that switches does not give it back to the
// pool that it came from, but frames of ports without a pool come from nobody's.
func ownLooped(f *frame, p *Port) bool {
	return p.rules.Local == policy.LocalHardware && p.domain.Table().Find(f.source()) == p.id.destination()
}
