package forward

import (
	"errors"
	"sync/atomic"

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
	seen  uint64 // calls at the last look; the event goroutine's
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

// freeWorkers frees workers that have been in one and the same call since the last tick, and stops the device that held them.
func (s *Switch) freeWorkers() {
	var count [8]byte
	for _, w := range s.workers {
		g := &w.guard
		calls := g.calls.Load()
		stuck := calls&1 == 1 && calls == g.seen
		g.seen = calls
		if !stuck {
			continue
		}
		g.port.Load().breakDown(ErrBlocked)
		if g.write.Load() {
			_, _ = unix.Read(int(g.fd.Load()), count[:]) // the counter is full: this empties it and does not block
		} else {
			_, _ = unix.Write(int(g.fd.Load()), []byte{1, 0, 0, 0, 0, 0, 0, 0})
		}
	}
}
