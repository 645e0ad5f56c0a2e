package forward

import (
	"time"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
)

// learnBudget is how many addresses a port may register per tick (100 ms). A guest that invents addresses pays with its own frames, not with the
// workers' time.
const learnBudget = 64

// newDomain makes a broadcast domain whose changes become events, and whose new addresses the uplink's checks know before any frame goes.
func (s *Switch) newDomain() *bridge.Domain {
	return bridge.NewDomain(bridge.Config{
		Entering: func(at bridge.Destination) {
			if s.checker != nil { // the frame goes before the event goroutine has told the uplink of its address
				s.checker.Expect(portAt(at).pool())
			}
		},
		Entered: func(mac ether.MAC, at bridge.Destination) { s.emitAddress(EventRegistered, mac, at) },
		Left:    func(mac ether.MAC, at bridge.Destination) { s.emitAddress(EventUnregistered, mac, at) },
	})
}

func (s *Switch) emitAddress(kind EventKind, mac ether.MAC, at bridge.Destination) {
	id := portAt(at)
	s.emit(Event{Kind: kind, Port: id, MAC: uint64(mac), VLAN: s.config.vlanOf(id)})
}

// age removes addresses that were silent too long, if any length is (--address-age).
func (s *Switch) age(now uint32) {
	if limit := uint32(s.config.AddressAge / time.Second); limit > 0 {
		s.domain.Age(now, limit)
	}
}

// learn registers a source address that is not known to be the port's, or says why its frame must be dropped. Workers call it for an
// address that they have not just seen on that port.
func (s *Switch) learn(p *Port, mac ether.MAC) (Reason, bool) {
	table := p.domain.Table()
	if table.Refresh(mac, p.id.destination()) {
		return 0, true
	}
	if owner := table.Find(mac); owner != bridge.None {
		s.emitOnce(p, Event{Kind: EventDuplicate, Port: p.id, Other: portAt(owner), MAC: uint64(mac)})
		return DropDuplicateMAC, false
	}
	if p.learnBudget.Add(-1) < 0 {
		s.emitOnce(p, Event{Kind: EventAddressLimit, Port: p.id, MAC: uint64(mac)})
		return DropMACLimit, false
	}
	return s.register(p, mac, s.clock.Load())
}

// register enters an address for a port.
func (s *Switch) register(p *Port, mac ether.MAC, now uint32) (Reason, bool) {
	switch outcome, _ := p.domain.Learn(mac, p.id.destination(), p.rules.Addresses, now); outcome {
	case bridge.Taken:
		return DropDuplicateMAC, false
	case bridge.Full:
		s.emitOnce(p, Event{Kind: EventAddressLimit, Port: p.id, MAC: uint64(mac)})
		return DropMACLimit, false
	case bridge.Away:
		return DropNotReady, false
	}
	return 0, true
}
