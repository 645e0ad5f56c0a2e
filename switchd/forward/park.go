package forward

import (
	"time"

	"vhostkit/switchd/guestmem"
)

// A thread that waits in a page fault runs, as far as the Go runtime knows. When the garbage collector stops the world, it waits for that thread,
// and everything else of the process, the other workers included, waits for the collector. Only files that cannot make a fault wait for
// long are mapped (guestmem); but a hole that is being punched, a page that is swapped in, or a fault of the machine take their time. So
// garbage is collected only while nobody can be in such a fault: every worker sleeps or is parked, and nobody of the control side touches
// guest memory. If that cannot be reached within a moment, nothing is collected then, and the other workers go on.

// parking is a request to the workers to stop at the top of their loops.
type parking struct{ resume chan struct{} }

// parkPoll is how often the control side looks whether the workers are parked.
const parkPoll = 20 * time.Microsecond

// Parked runs f while no thread touches guest memory, and reports whether it did: if that state is not reached within the limit, it gives up.
// For one caller at a time.
func (s *Switch) Parked(limit time.Duration, f func()) bool {
	deadline := time.Now().Add(limit)
	until := func(reached func() bool) bool {
		for !reached() {
			if time.Now().After(deadline) {
				return false
			}
			time.Sleep(parkPoll)
		}
		return true
	}
	p := &parking{resume: make(chan struct{})}
	s.parking.Store(p)
	defer close(p.resume)
	defer s.parking.Store(nil)
	if s.running.Load() {
		for _, w := range s.workers {
			if !until(func() bool { return w.still.Load() }) {
				return false
			}
		}
	}
	if !until(s.touching.TryLock) {
		return false
	}
	defer s.touching.Unlock()
	f()
	return true
}

// Idle tells whether all workers sleep, so that Parked costs nobody anything.
func (s *Switch) Idle() bool {
	if s.running.Load() {
		for _, w := range s.workers {
			if !w.still.Load() {
				return false
			}
		}
	}
	return true
}

// Touch runs f, which may touch the port's guest memory, and returns the fault that ended it early, or nil. Whoever is no worker uses it: no
// garbage is collected meanwhile. f must not wait for anything else.
func (p *Port) Touch(f func()) *guestmem.Fault {
	p.sw.touching.RLock()
	defer p.sw.touching.RUnlock()
	return guestmem.Contain(f)
}

// park stops the worker until the request is over. The caller touches no guest memory between being parked and looking for a request again.
func (w *worker) park(p *parking) {
	for ; p != nil; p = w.sw.parking.Load() {
		w.still.Store(true)
		<-p.resume
		w.still.Store(false)
	}
}

// awake ends a sleep, during which the worker counted as parked. A request that came meanwhile goes first.
func (w *worker) awake() {
	w.still.Store(false)
	w.park(w.sw.parking.Load())
}
