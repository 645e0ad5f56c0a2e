package forward

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/virtio"
)

// ErrBlocked says that a front-end tried to hold up the switch through an eventfd.
var ErrBlocked = errors.New("the front-end made its eventfd block, by clearing O_NONBLOCK on the file that it shares with the switch")

// guard watches over the two system calls on files that a front-end shares: reading its kick and writing its call eventfd. Both are
// non-blocking when the switch gets them, but the flag belongs to the open file, and a hostile front-end can clear it at any time and fill
// or empty the counter. A worker that hangs in such a call is freed from outside, by undoing what the front-end did to the counter.
type guard struct {
	calls atomic.Uint64 // calls begun; odd while one is under way
	fd    atomic.Int32
	write atomic.Bool
	port  atomic.Pointer[Port]
	seen  uint64 // calls at the last look; guardWorkers'
}

func (g *guard) enter(fd int, write bool, p *Port) {
	g.fd.Store(int32(fd))
	g.write.Store(write)
	g.port.Store(p)
	g.calls.Add(1)
}

func (g *guard) leave() { g.calls.Add(1) }

// call wakes a guest.
func (w *worker) call(q *virtio.Queue, p *Port, c *counters) {
	w.guard.enter(q.CallFD(), true, p)
	q.Call()
	w.guard.leave()
	c.calls.Add(1)
}

// guardWorkers looks after the workers until it is stopped, which must not be before they have ended. It waits for nobody: while a worker hangs,
// everybody else may be waiting for that worker.
func (s *Switch) guardWorkers(stop <-chan struct{}) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			s.freeWorkers()
		}
	}
}

// freeWorkers frees workers that have been in one and the same call since the last tick, and stops the device that held them.
func (s *Switch) freeWorkers() {
	for _, w := range s.workers {
		g := &w.guard
		calls := g.calls.Load()
		stuck := calls&1 == 1 && calls == g.seen
		g.seen = calls
		if !stuck {
			continue
		}
		g.port.Load().breakDown(ErrBlocked)
		// The counter is full, so reading empties it at once, or empty, so writing fills it; but the front-end may be quicker and make
		// this block in turn, so nobody waits for it.
		go free(int(g.fd.Load()), g.write.Load())
	}
}

// free undoes what a front-end did to an eventfd's counter so that a call on it blocks.
func free(fd int, write bool) {
	var count [8]byte
	if write {
		_, _ = unix.Read(fd, count[:])
	} else {
		_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}
