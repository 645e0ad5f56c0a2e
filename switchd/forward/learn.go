package forward

import (
	"slices"

	"vhostkit/switchd/ether"
)

const (
	// learnBudget is how many addresses a port may register per tick (100 ms). A guest that invents addresses pays with its own frames,
	// not with the workers' time.
	learnBudget = 64
	// evictAfter is how many seconds an address must have been silent before a port at its limit may replace it.
	evictAfter = 1
)

// learn registers a source address that is not known to be the port's, or says why its frame must be dropped. Workers call it for an
// address that they have not just seen on that port.
func (s *Switch) learn(p *Port, mac ether.MAC) (Reason, bool) {
	table := s.fdb.table.Load()
	if table.refresh(mac, p.id) {
		return 0, true
	}
	if _, owner := table.find(mac); owner >= 0 {
		s.emitOnce(p, Event{Kind: EventDuplicate, Port: p.id, Other: owner, MAC: uint64(mac)})
		return DropDuplicateMAC, false
	}
	if p.learnBudget.Add(-1) < 0 {
		s.emitOnce(p, Event{Kind: EventAddressLimit, Port: p.id, MAC: uint64(mac)})
		return DropMACLimit, false
	}
	return s.register(p, mac, s.clock.Load())
}

// register enters an address for a port. It looks again under the lock: another worker may have been faster.
func (s *Switch) register(p *Port, mac ether.MAC, now uint32) (Reason, bool) {
	f := s.fdb
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.closed {
		return DropNotReady, false
	}
	if _, owner := f.table.Load().find(mac); owner >= 0 {
		if owner == p.id {
			return 0, true
		}
		return DropDuplicateMAC, false
	}
	if len(f.of(p.id)) >= s.config.MACLimit && !s.evictOldest(p, now) {
		s.emitOnce(p, Event{Kind: EventAddressLimit, Port: p.id, MAC: uint64(mac)})
		return DropMACLimit, false
	}
	if s.checker != nil { // the frame goes before the event goroutine has told the uplink of its address
		s.checker.Expect(p.id)
	}
	f.insert(mac, p.id, now)
	p.newest = mac
	p.ready.Store(true)
	s.emit(Event{Kind: EventRegistered, Port: p.id, MAC: uint64(mac), VLAN: p.vlan})
	return 0, true
}

// evictOldest frees an address of a port that is at its limit. The caller holds fdb.mu.
func (s *Switch) evictOldest(p *Port, now uint32) bool {
	oldest, oldestAge := -1, uint32(evictAfter-1)
	list := s.fdb.of(p.id)
	for i := range list {
		if age := s.fdb.age(&list[i], now); age > oldestAge {
			oldest, oldestAge = i, age
		}
	}
	if oldest < 0 {
		return false
	}
	s.forget(p.id, oldest)
	return true
}

// forget removes the i-th address of a port and tells. The caller holds fdb.mu.
func (s *Switch) forget(port, i int) {
	mac := s.fdb.remove(port, i)
	s.emit(Event{Kind: EventUnregistered, Port: port, MAC: uint64(mac), VLAN: s.config.VLANBase + port})
}

// forgetPort removes every address of a port.
func (s *Switch) forgetPort(p *Port) {
	s.fdb.mu.Lock()
	defer s.fdb.mu.Unlock()
	p.ready.Store(false)
	for n := len(s.fdb.of(p.id)); n > 0; n-- {
		s.forget(p.id, n-1)
	}
}

// age removes addresses that were silent too long. The newest address of a port stays: a guest that only listens must remain reachable.
func (s *Switch) age(now uint32) {
	limit := uint32(s.config.AddressAge.Seconds())
	if limit == 0 {
		return
	}
	s.mu.Lock() // before fdb.mu, see Switch
	ports := slices.Clone(s.ports)
	s.mu.Unlock()
	s.fdb.everyPort(func(port int) {
		newest := ether.MAC(0)
		if port < len(ports) && ports[port] != nil {
			newest = ports[port].newest
		}
		list := s.fdb.of(port)
		for i := len(list) - 1; i >= 0; i-- { // what takes the place of one that goes was looked at before
			if list[i].mac != newest && s.fdb.age(&list[i], now) > limit {
				s.forget(port, i)
			}
		}
	})
}
