package forward

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"vhostkit/switchd/virtio"
)

// A call descriptor that is replaced in a running ring (virtio.Queue.SetCall) may still be in use by a worker that has read it a moment ago. To
// find out when that is over takes no new table: a number that goes up, and that each worker copies at the top of its loop, where it holds
// nothing from the round before.

// quiescence is the number, and the rings whose drivers have to be woken by worker 0 when it takes the number over.
type quiescence struct {
	asked atomic.Uint64

	mu      sync.Mutex
	recalls []recall
}

// recall is a ring whose driver is to be woken through its new descriptor.
type recall struct {
	port  *Port
	queue *virtio.Queue
}

// neverAgain is what a worker that has ended has passed.
const neverAgain = math.MaxUint64

// Quiesce returns when no worker uses a call descriptor any more that was replaced in the queue before. The driver is then woken once through
// its new one: a front-end that has looked whether the old one was signalled, and a worker that signals it after that, would lose a call.
// Unlike the port's other methods it may be called at any time, also after Close.
func (p *Port) Quiesce(q *virtio.Queue) {
	s := p.sw
	s.await(s.ask(nil))
	s.ask(&recall{p, q})
}

// ask has all workers pass the top of their loops and tells which number they have then passed; 0 if none run.
func (s *Switch) ask(r *recall) uint64 {
	s.mu.Lock() // workers end, and their descriptors with them, only after this was held
	defer s.mu.Unlock()
	if !s.running.Load() {
		return 0
	}
	if r != nil {
		s.quiet.mu.Lock()
		s.quiet.recalls = append(s.quiet.recalls, *r)
		s.quiet.mu.Unlock()
	}
	n := s.quiet.asked.Add(1)
	for _, w := range s.workers {
		w.wakeUp()
	}
	return n
}

// await returns when all workers have passed a number. It holds nothing meanwhile.
func (s *Switch) await(n uint64) {
	if n == 0 {
		return
	}
	for _, w := range s.workers {
		for w.quiet.Load() < n {
			time.Sleep(20 * time.Microsecond)
		}
	}
}

// pass is the worker's part, at the top of its loop.
func (w *worker) pass(asked uint64) {
	w.quiet.Store(asked)
	if w.index == 0 {
		w.recall()
	}
}

// recall wakes the drivers whose descriptors were replaced. A ring that has stopped since then is no longer in the table, and its descriptor
// may be closed.
func (w *worker) recall() {
	s := &w.sw.quiet
	s.mu.Lock()
	list := s.recalls
	s.recalls = nil
	s.mu.Unlock()
	for _, r := range list {
		v := w.table.at(r.port.id.destination())
		if v == nil || v.port != r.port || r.port.broken.Load() {
			continue
		}
		if c := v.countersOf(r.queue); c != nil && r.queue.CallFD() >= 0 {
			w.call(r.queue, c)
		}
	}
	w.signals.Flush()
}

// countersOf gives the counters of a running queue; nil if it does not run.
func (v *portState) countersOf(q *virtio.Queue) *counters {
	for _, r := range v.rx {
		if r.queue == q {
			return r.c
		}
	}
	for _, r := range v.tx {
		if r.queue == q {
			return r.c
		}
	}
	return nil
}
