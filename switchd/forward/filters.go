package forward

import (
	"errors"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
)

// The uplink's address filters follow the address table. An event says that an address has changed, not what is to be done: that is found by
// comparing the table with what the uplink was told last. So an event that comes late does no harm, and what events that were lost should have
// done is found by comparing everything. An uplink that sorts nothing is told nothing, but what it would have been told is noted all the same:
// the events that were lost are made up for by that.

// addressFilter is what the uplink was told of an address.
type addressFilter struct {
	port PortID
	err  error // why the uplink did not take it
}

// filter brings the uplink's filter for an address in step with the address table, and tells why the uplink did not take it for that port, if so.
// Software uplinks accept everything. Called from the event goroutine only, as all below.
func (s *Switch) filter(mac ether.MAC, port PortID) error {
	_ = s.unfilter(mac) // the port that has it now matters more
	owner := portAt(s.domain.Table().Find(mac))
	if _, known := s.filters[mac]; owner != noPort && !known {
		_ = s.tell(mac, owner)
	}
	if told, known := s.filters[mac]; known && told.port == port {
		return told.err
	}
	return nil
}

// unfilter takes the uplink's filter for an address away if the address is not, or no longer, that port's. One that is another's now comes back
// with the event that says so.
func (s *Switch) unfilter(mac ether.MAC) error {
	owner := portAt(s.domain.Table().Find(mac))
	told, known := s.filters[mac]
	if !known || told.port == owner {
		return nil
	}
	delete(s.filters, mac)
	delete(s.refused, mac)
	if s.filterer == nil {
		return nil
	}
	s.setHardware(mac, noPort)
	return s.filterer.RemoveFilter(told.port.pool(), mac, s.config.vlanOf(told.port))
}

// tell gives the uplink an address.
func (s *Switch) tell(mac ether.MAC, port PortID) error {
	if s.filterer == nil {
		s.filters[mac] = addressFilter{port: port}
		return nil
	}
	err := s.filterer.AddFilter(port.pool(), mac, s.config.vlanOf(port))
	s.filters[mac] = addressFilter{port, err}
	if err != nil {
		s.refused[mac] = true
		s.setHardware(mac, noPort)
	} else {
		delete(s.refused, mac)
		s.setHardware(mac, port)
	}
	return err
}

// retryFilters asks the uplink again to take what it did not: a device that failed may have recovered, and one that was full may have room. One
// that fails again ends the round, because it may have taken long.
func (s *Switch) retryFilters() {
	for mac := range s.refused {
		told := s.filters[mac]
		full := errors.Is(told.err, uplink.ErrNoPool)
		if full && int(told.port.pool()) >= s.filterer.Pools() {
			continue // there never will be
		}
		if err := s.tell(mac, told.port); err != nil && !errors.Is(err, uplink.ErrNoPool) {
			return
		}
	}
}

// catchUp makes up for events about addresses that did not fit the queue: what they would have said is said now.
func (s *Switch) catchUp() {
	if s.config.Uplink == nil || !s.behind.Swap(false) {
		return
	}
	for range len(s.events) {
		s.handle(<-s.events)
	}
	var late []Event
	table := s.domain.Table()
	for mac, told := range s.filters {
		if portAt(table.Find(mac)) != told.port {
			late = append(late, Event{Kind: EventUnregistered, Port: told.port, MAC: uint64(mac), VLAN: s.config.vlanOf(told.port)})
		}
	}
	s.domain.Each(0, func(mac ether.MAC, at bridge.Destination, _ uint32) {
		port := portAt(at)
		if told, known := s.filters[mac]; !known || told.port != port {
			late = append(late, Event{Kind: EventRegistered, Port: port, MAC: uint64(mac), VLAN: s.config.vlanOf(port)})
		}
	})
	for _, e := range late {
		s.handle(e)
	}
}
