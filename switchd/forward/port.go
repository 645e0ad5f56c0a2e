package forward

import (
	"errors"
	"slices"
	"sync/atomic"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/policy"
	"vhostkit/switchd/virtio"
)

// ErrTooManyPorts says that every identifier is in use.
var ErrTooManyPorts = errors.New("no free port identifier")

// Port is a place where a device is plugged in. Its methods are for the control side and must not be called concurrently with each other.
type Port struct {
	sw     *Switch
	id     PortID
	domain *bridge.Domain // whose addresses it shares
	rules  policy.Port
	fail   func(error)

	ready       atomic.Bool // an address is registered
	broken      atomic.Bool // workers keep away from it
	failure     atomic.Pointer[error]
	reported    bool // the failure was passed on; event goroutine only
	learnBudget atomic.Int32
	turns       []turn        // by worker
	announcing  atomic.Int32  // announcements that it may still have made
	patience    atomic.Int64  // nanoseconds that workers may still wait for its receive rings in this tick
	quiet       atomic.Uint32 // no more complaints about its addresses until this second

	lentMemory *guestmem.Memory // that the uplink's device can read; the control side's
	undrained  bool             // it may still be reading

	pairs []*pairCounters // by queue pair; sw.mu. Kept while the port lives, whatever becomes of the rings
	state *portState      // what workers see of it now; sw.mu
}

type pairCounters struct{ rx, tx counters }

// of gives the counters of a ring, by its index.
func (c *pairCounters) of(ring int) *counters {
	if ring%2 == 0 {
		return &c.rx
	}
	return &c.tx
}

// portState is what workers see of a port. It is immutable but for what its rings hold.
type portState struct {
	port   *Port
	memory *guestmem.Memory
	rx     []*receiveRing  // running receive rings, by queue pair
	tx     []*transmitRing // running transmit rings, by queue pair
}

// ring is where frames of a sender's queue pair go. A pair of the sender always reaches the same pair of the receiver, which keeps the order.
func (v *portState) ring(pair int) *receiveRing {
	if len(v.rx) > 1 {
		return v.rx[pair%len(v.rx)]
	}
	return v.rx[0]
}

// receiveRing is a guest's receive queue. It has one owner at a time: the worker that has taken owner.
type receiveRing struct {
	owner   owner
	queue   *virtio.Queue
	header  int         // bytes of virtio-net header
	merge   bool        // a frame may take several buffers
	stalled atomic.Bool // offered nothing during all retries, nor since: retrying is pointless
	accept  offloads
	port    *Port
	c       *counters

	// The owner's: what was delivered and not yet counted, and whether some worker will see to it at the end of its round.
	packets, bytes uint64
	noted          bool

	unfit   int    // least length that the next buffer cannot hold, header included, 0 if unknown; see unfitting. The owner's
	unfitAt uint64 // as long as so many buffers were completed
}

// transmitRing is a guest's transmit queue. It belongs to the worker that the table gives it to.
type transmitRing struct {
	plain    bool // its port's rules ask for no more than the address table: the fast path's
	queue    *virtio.Queue
	header   int
	offloads bool     // headers carry checksum or segmentation requests
	leaves   offloads // what it may leave to others
	pair     int
	worker   int // who polls it, -1 before the first table; sw.mu
	port     *Port
	c        *counters
	watcher  *sleeper // of the worker that has it; the worker's
	watched  uint64   // the last look at what the watcher sleeps on that had it
	loans    *loans   // nil: nothing is ever lent

	lastSource ether.MAC // of the last frame that passed; the worker's
	lastSeen   uint32
}

// ID is the port's number: the device number of DPDK's vhost sample.
func (p *Port) ID() PortID { return p.id }

// VLAN is the port's VLAN on the uplink.
func (p *Port) VLAN() ether.VLAN { return p.rules.VLAN }

// Update replaces the rings that workers may touch; rings[2n] is the receive and rings[2n+1] the transmit queue of pair n, nil where it
// does not run. It returns when no worker touches anything of the previous set, so that its memory may be unmapped. What is new is served from the
// next round of each worker on, which Update does not wait for.
func (p *Port) Update(rings []*virtio.Queue, features virtio.Features, memory *guestmem.Memory) {
	s := p.sw
	s.mu.Lock()
	before := p.state
	p.state = p.newState(rings, features, memory)
	s.commit(before.loses(p.state))
	s.mu.Unlock()
	p.settle(before.without(p.state))
	p.relend(memory)
}

// loses tells whether the next state lacks something that workers may touch as long as they have this one.
func (v *portState) loses(next *portState) bool {
	switch {
	case v == nil:
		return false
	case next == nil:
		return v.memory != nil || len(v.rx)+len(v.tx) > 0
	case v.memory != nil && next.memory != v.memory:
		return true
	}
	for _, r := range v.rx {
		if !slices.Contains(next.rx, r) {
			return true
		}
	}
	return len(v.without(next)) > 0
}

// without lists the transmit rings that the next state has no more.
func (v *portState) without(next *portState) (gone []*transmitRing) {
	if v == nil {
		return nil
	}
	for _, r := range v.tx {
		if next == nil || !slices.Contains(next.tx, r) {
			gone = append(gone, r)
		}
	}
	return gone
}

// Close removes the port; its identifier is free when it returns, and no worker touches its rings or memory.
func (p *Port) Close() {
	s := p.sw
	p.domain.Leave(p.id.destination())
	p.ready.Store(false)
	s.mu.Lock()
	before := p.state
	p.state = nil
	s.commit(before.loses(nil))
	s.mu.Unlock()
	p.settle(before.without(nil))
	p.relend(nil)
	s.mu.Lock()
	s.ports[p.id] = nil
	for _, c := range p.pairs {
		s.gone.RX, s.gone.TX = s.gone.RX.Add(c.rx.snapshot()), s.gone.TX.Add(c.tx.snapshot())
	}
	s.mu.Unlock()
}

// newState describes the rings to the workers. A ring that goes on running keeps its object, and with it its worker.
func (p *Port) newState(rings []*virtio.Queue, features virtio.Features, memory *guestmem.Memory) *portState {
	v := &portState{port: p, memory: memory}
	for i, q := range rings {
		pair := i / 2
		for len(p.pairs) <= pair {
			p.pairs = append(p.pairs, &pairCounters{})
		}
		if q == nil || p.keep(v, q) {
			continue
		}
		// Starting touches the ring, whose memory may already be gone.
		if fault := p.Touch(q.Start); fault != nil {
			p.breakDown(fault)
			continue
		}
		p.sw.fresh = append(p.sw.fresh, freshRing{queue: q, port: p, c: p.pairs[pair].of(i)})
		if i%2 == 0 {
			v.rx = append(v.rx, &receiveRing{
				queue: q, header: features.HeaderSize(), merge: features.Has(virtio.VIRTIO_NET_F_MRG_RXBUF),
				accept: acceptedOffloads(features), port: p, c: &p.pairs[pair].rx,
			})
		} else {
			v.tx = append(v.tx, &transmitRing{
				queue: q, header: features.HeaderSize(), offloads: features.Has(virtio.VIRTIO_NET_F_CSUM),
				plain: p.rules.Plain, leaves: leftOffloads(features), pair: pair, worker: -1, port: p, c: &p.pairs[pair].tx, loans: p.sw.newLoans(q),
			})
		}
	}
	return v
}

// keep takes the ring of a queue that the present state has already into the next one.
func (p *Port) keep(next *portState, q *virtio.Queue) bool {
	if p.state == nil {
		return false
	}
	for _, r := range p.state.rx {
		if r.queue == q {
			next.rx = append(next.rx, r)
			return true
		}
	}
	for _, r := range p.state.tx {
		if r.queue == q {
			next.tx = append(next.tx, r)
			return true
		}
	}
	return false
}

// breakDown takes the port out of service after its guest broke the rules. Any goroutine may call it; only the first reason counts.
func (p *Port) breakDown(err error) {
	if p.failure.CompareAndSwap(nil, &err) {
		p.broken.Store(true)
		p.sw.wakeEvents()
	}
}
