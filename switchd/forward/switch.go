package forward

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/policy"
	"vhostkit/switchd/ticks"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/virtio"
)

// tick is how often the event goroutine looks around: failures, learning budgets, the coarse clock, ageing.
const tick = 100 * time.Millisecond

// Switch forwards frames between its ports and the uplink.
type Switch struct {
	config Config
	domain *bridge.Domain // of all ports
	clock  atomic.Uint32  // seconds since start
	start  time.Time

	filterer uplink.Filterer  // nil: the uplink sorts nothing
	mapper   uplink.DMAMapper // nil: frames are copied
	checker  uplink.Checker   // nil: the uplink looks at no source address

	table   atomic.Pointer[table]
	workers []*worker
	running atomic.Bool
	parking atomic.Pointer[parking] // nil: workers need not stop
	// touching is held for reading by whoever of the control side touches guest memory, for writing by Parked.
	touching sync.RWMutex
	quiet    quiescence

	// mu is held while the control side waits for the workers. What workers wait for must therefore never be held by somebody who waits for mu:
	// a domain's lock comes after it.
	mu    sync.Mutex  // what follows, and changes of table
	ports []*Port     // by identifier
	gone  PairStats   // sums of the ports that were closed
	fresh []freshRing // that have started since the first worker's last table

	uplinkC      uplinkCounters
	uplinkQueues []*uplinkQueue // made by Run
	hardware     atomic.Pointer[hardwareAddresses]

	announcing    atomic.Bool
	announceMu    sync.Mutex
	announcements []announcement

	events     chan Event
	wake       chan struct{}
	eventsLost atomic.Uint64
	behind     atomic.Bool // an event about an address was lost

	filters map[ether.MAC]addressFilter // what the uplink was told; the event goroutine's
	refused map[ether.MAC]bool          // of these, what it did not take
}

// table is what the workers work on: immutable, replaced as a whole.
type table struct {
	epoch  uint64
	ports  []*portState      // by destination
	flood  []*portState      // those with receive rings
	tx     [][]*transmitRing // by worker; a port's rings stand together
	fresh  []freshRing       // not in a table that the first worker had before
	closed bool              // workers end
}

// freshRing is a ring that has just started. The first worker wakes its driver: the switch may have been killed between returning buffers and
// saying so, and a driver that sleeps on a full ring would never hear of it.
type freshRing struct {
	queue *virtio.Queue
	port  *Port
	c     *counters
	epoch uint64 // of the first table that has it; 0: of the next one
}

// New makes a switch. Nothing runs before Run.
func New(c Config) *Switch {
	if len(c.Cores) == 0 {
		c.Cores = []int{-1}
	}
	s := &Switch{config: c, start: time.Now(), events: make(chan Event, 4096), wake: make(chan struct{}, 1),
		filters: map[ether.MAC]addressFilter{}, refused: map[ether.MAC]bool{}}
	s.domain = s.newDomain()
	s.clock.Store(1)
	if mapper, ok := c.Uplink.(uplink.DMAMapper); ok && c.ZeroCopy {
		s.mapper = mapper
	}
	s.filterer, _ = c.Uplink.(uplink.Filterer)
	s.checker, _ = c.Uplink.(uplink.Checker)
	s.hardware.Store(&hardwareAddresses{})
	s.table.Store(&table{tx: make([][]*transmitRing, len(c.Cores))})
	return s
}

// Run starts the workers and serves until ctx ends. It returns when all workers have stopped.
func (s *Switch) Run(ctx context.Context) error {
	scale := ticks.Measure(time.Millisecond)
	for i, core := range s.config.Cores {
		w, err := newWorker(s, i, core, scale)
		if err != nil {
			for _, w := range s.workers {
				w.close()
			}
			return fmt.Errorf("starting worker %d: %w", i, err)
		}
		s.workers = append(s.workers, w)
	}
	var group sync.WaitGroup
	s.mu.Lock() // from now on whoever changes a port waits for the workers
	s.running.Store(true)
	for _, w := range s.workers {
		group.Add(1)
		go func() {
			defer group.Done()
			w.run()
		}()
	}
	s.commit(true) // ports that came before Run
	s.mu.Unlock()
	s.serveEvents(ctx)

	s.mu.Lock()
	last := s.build()
	last.closed = true
	s.publish(last, true)
	s.running.Store(false)
	s.mu.Unlock()
	group.Wait()
	for _, w := range s.workers {
		w.close()
	}
	return nil
}

// AddPort takes the lowest free identifier. fail is called, once and from the switch's own goroutine, when the port's device must be
// stopped because its guest broke the rules; it must not block.
func (s *Switch) AddPort(fail func(error)) (*Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := PortID(0)
	for int(id) < len(s.ports) && s.ports[id] != nil {
		id++
	}
	if most := s.config.mostPorts(); int(id) >= most {
		return nil, fmt.Errorf("%w: %d ports are connected, which is all that have a VLAN of their own (%d..%d, by --vlan-base); disconnect one",
			ErrTooManyPorts, id, s.config.VLANBase, s.config.VLANBase+most-1)
	}
	p := &Port{sw: s, id: id, domain: s.domain, rules: policy.Compile(s.config.rules(id)), fail: fail, turns: newTurns(len(s.config.Cores))}
	p.announcing.Store(announceBurst)
	p.learnBudget.Store(learnBudget)
	p.patience.Store(int64(portPatience))
	if int(id) == len(s.ports) {
		s.ports = append(s.ports, nil)
	}
	s.ports[id] = p
	p.domain.Join(id.destination(), func() { p.ready.Store(true) })
	return p, nil
}

// build makes the table for the present ports. The caller holds mu.
func (s *Switch) build() *table {
	t := &table{epoch: s.table.Load().epoch + 1, ports: make([]*portState, len(s.ports)), flood: make([]*portState, 0, len(s.ports)),
		tx: make([][]*transmitRing, len(s.config.Cores))}
	for _, p := range s.ports {
		if p == nil || p.state == nil {
			continue
		}
		t.ports[p.id.destination()] = p.state
		if len(p.state.rx) > 0 {
			t.flood = append(t.flood, p.state)
		}
	}
	return t
}

// commit brings the workers onto the present ports. Rings that change their worker are first taken from the old one. With wait it returns when
// each worker has passed the top of its loop; without, which is for changes that take nothing away, they follow when they get round to it. The
// caller holds mu.
func (s *Switch) commit(wait bool) {
	rings := s.transmitRings()
	before := make([]int, len(rings))
	for i, r := range rings {
		before[i] = r.worker
	}
	assign(rings, len(s.config.Cores))
	var interim *table
	for i, r := range rings {
		if before[i] >= 0 && before[i] != r.worker {
			interim = s.build()
			break
		}
	}
	if interim != nil {
		for i, r := range rings {
			if before[i] == r.worker {
				interim.tx[r.worker] = append(interim.tx[r.worker], r)
			}
		}
		s.publish(interim, true)
	}
	final := s.build()
	load := make([]int, len(final.tx))
	for _, r := range rings {
		load[r.worker]++
	}
	for i, n := range load {
		final.tx[i] = make([]*transmitRing, 0, n)
	}
	for _, r := range rings {
		final.tx[r.worker] = append(final.tx[r.worker], r)
	}
	s.publish(final, wait)
}

func (s *Switch) transmitRings() []*transmitRing {
	rings := make([]*transmitRing, 0, len(s.ports)+len(s.ports)/4)
	for _, p := range s.ports {
		if p != nil && p.state != nil {
			rings = append(rings, p.state.tx...)
		}
	}
	return rings
}

// assign gives new rings to the worker with the fewest (the lowest number on a tie), then moves rings from the fullest worker to the
// emptiest until they differ by one at most.
func assign(rings []*transmitRing, workers int) {
	load := make([]int, workers)
	for _, r := range rings {
		if r.worker >= 0 {
			load[r.worker]++
		}
	}
	for _, r := range rings {
		if r.worker < 0 {
			r.worker = least(load)
			load[r.worker]++
		}
	}
	for _, r := range rings {
		if to := least(load); load[r.worker] > load[to]+1 {
			load[r.worker]--
			load[to]++
			r.worker = to
		}
	}
}

func least(load []int) int {
	best := 0
	for i, n := range load {
		if n < load[best] {
			best = i
		}
	}
	return best
}

// publish replaces the table, and may wait until every worker works on it. The caller holds mu.
func (s *Switch) publish(t *table, wait bool) {
	s.fresh = s.stillFresh(t.epoch)
	t.fresh = s.fresh
	s.table.Store(t)
	if !s.running.Load() {
		return
	}
	for _, w := range s.workers {
		w.wakeUp()
	}
	if !wait {
		return
	}
	for _, w := range s.workers {
		for w.passed.Load() < t.epoch {
			time.Sleep(20 * time.Microsecond)
		}
	}
}

// stillFresh lists the rings that the first worker has to make known with the table of this epoch: it may have skipped the tables before.
func (s *Switch) stillFresh(epoch uint64) (list []freshRing) {
	for _, f := range s.fresh {
		if f.epoch == 0 {
			f.epoch = epoch
		} else if s.running.Load() && s.workers[0].passed.Load() >= f.epoch {
			continue
		}
		if v := f.port.state; v != nil && v.countersOf(f.queue) != nil {
			list = append(list, f)
		}
	}
	return list
}
