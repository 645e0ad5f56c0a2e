package forward

import (
	"sort"
	"time"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
)

// PairStats are the counters of a queue pair: RX is what the guest receives, TX what it sends, as DPDK's vhost sample has it.
type PairStats struct{ RX, TX QueueStats }

// PortStats is what is known of a port.
type PortStats struct {
	ID      PortID
	VLAN    ether.VLAN
	Ready   bool // an address is registered
	Failure error
	MACs    []ether.MAC
	Pairs   []PairStats
	Workers []int // that poll its transmit rings
	RXRings int   // running
	TXRings int
}

// Address is an entry of the address table.
type Address struct {
	MAC  ether.MAC
	Port PortID
	VLAN ether.VLAN
	Age  time.Duration // since it was last a source, in whole seconds
}

// WorkerStats tells how a worker spends its time.
type WorkerStats struct {
	Index, Core                    int
	Rounds, Empty, Sleeps, Wakeups uint64
	Busy                           time.Duration // not asleep since it started
	Rings                          int
}

// Ports lists the connected ports by identifier.
func (s *Switch) Ports() []PortStats {
	addresses := map[PortID][]ether.MAC{}
	for _, a := range s.Addresses() {
		addresses[a.Port] = append(addresses[a.Port], a.MAC)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []PortStats
	for _, p := range s.ports {
		if p == nil {
			continue
		}
		st := p.stats()
		st.MACs = addresses[p.id]
		list = append(list, st)
	}
	return list
}

// Stats is what Ports tells of the port, without its addresses.
func (p *Port) Stats() PortStats {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.stats()
}

// stats needs sw.mu.
func (p *Port) stats() PortStats {
	st := PortStats{ID: p.id, VLAN: p.VLAN(), Ready: p.ready.Load()}
	if err := p.failure.Load(); err != nil {
		st.Failure = *err
	}
	for _, c := range p.pairs {
		st.Pairs = append(st.Pairs, PairStats{RX: c.rx.snapshot(), TX: c.tx.snapshot()})
	}
	if p.state != nil {
		st.RXRings, st.TXRings = len(p.state.rx), len(p.state.tx)
		for _, r := range p.state.tx {
			st.Workers = append(st.Workers, r.worker)
		}
	}
	return st
}

// Addresses lists the address table by port and address.
func (s *Switch) Addresses() []Address {
	now := s.clock.Load()
	var list []Address
	s.domain.Each(now, func(mac ether.MAC, at bridge.Destination, age uint32) {
		port := portAt(at)
		list = append(list, Address{MAC: mac, Port: port, VLAN: s.config.vlanOf(port), Age: time.Duration(age) * time.Second})
	})
	sort.Slice(list, func(i, j int) bool {
		if list[i].Port != list[j].Port {
			return list[i].Port < list[j].Port
		}
		return list[i].MAC < list[j].MAC
	})
	return list
}

// Workers lists the workers. It is empty before Run.
func (s *Switch) Workers() []WorkerStats {
	if !s.running.Load() {
		return nil
	}
	var list []WorkerStats
	for _, w := range s.workers {
		st := &w.stats
		busy := st.busy.Load()
		if since := st.since.Load(); since > 0 {
			busy += s.now() - since
		}
		list = append(list, WorkerStats{
			Index: w.index, Core: w.core, Rounds: st.rounds.Load(), Empty: st.empty.Load(), Sleeps: st.sleeps.Load(),
			Wakeups: st.wakeups.Load(), Busy: time.Duration(busy), Rings: int(st.rings.Load()),
		})
	}
	return list
}

// UplinkStats are the counters of the uplink: RX what came from it, TX what went out.
func (s *Switch) UplinkStats() (rx, tx QueueStats) {
	return s.uplinkC.rx.snapshot(), s.uplinkC.tx.snapshot()
}

// EventsLost counts the events that OnEvent was not called for, because too many came at a time.
func (s *Switch) EventsLost() uint64 { return s.eventsLost.Load() }

// Gone gives the sums of the counters of all ports that were closed.
func (s *Switch) Gone() PairStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return PairStats{RX: s.gone.RX.Add(QueueStats{}), TX: s.gone.TX.Add(QueueStats{})}
}

// Own gives the counters of the frames that the switch itself sent, to announce guests that arrived by migration.
func (s *Switch) Own() QueueStats {
	sum := QueueStats{}.Add(QueueStats{})
	if !s.running.Load() {
		return sum
	}
	for _, w := range s.workers {
		sum = sum.Add(w.discard.snapshot())
	}
	sum.Packets = sum.Delivered + sum.Dropped()
	return sum
}

type uplinkCounters struct{ rx, tx counters }
