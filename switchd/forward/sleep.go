package forward

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// How long a worker goes on polling after the last frame before it sleeps: between these bounds, longer when sleeping turns out to
	// have been for nothing.
	minSpin = 10 * time.Microsecond
	maxSpin = 200 * time.Microsecond
	// A sleep shorter than this was not worth it. Waking up alone takes 20 to 200 µs, in a virtual machine more: a bound below that would
	// find every sleep worth it, and a sender that waits for its answer would be put to sleep at each turn.
	shortSleep = time.Millisecond
)

// sleeper lets a worker sleep until a guest kicks, an uplink queue has frames, or the control side wants something.
type sleeper struct {
	epoll   int
	wake    int // eventfd
	spin    time.Duration
	watched []int
	kicks   map[int]*transmitRing
	ready   [64]unix.EpollEvent
}

func (s *sleeper) init() error {
	var err error
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(s.epoll)
		return fmt.Errorf("eventfd: %w", err)
	}
	s.spin = minSpin
	s.kicks = map[int]*transmitRing{}
	return s.add(s.wake)
}

func (s *sleeper) close() {
	unix.Close(s.epoll)
	unix.Close(s.wake)
}

func (s *sleeper) add(fd int) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// watch makes the kicks of these rings, and these uplink queues, what the worker wakes up for. An eventfd that epoll refuses leaves its
// ring to the regular look-around of rest.
func (s *sleeper) watch(tx []*transmitRing, uplinks []*uplinkQueue) {
	for _, fd := range s.watched {
		// The descriptor may be closed by now, which removed it: nothing to be done then.
		_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	}
	s.watched = s.watched[:0]
	clear(s.kicks)
	for _, r := range tx {
		if fd := r.queue.KickFD(); fd >= 0 && s.add(fd) == nil {
			s.watched = append(s.watched, fd)
			s.kicks[fd] = r
		}
	}
	for _, u := range uplinks {
		if fd := u.queue.FD(); fd >= 0 && s.add(fd) == nil {
			s.watched = append(s.watched, fd)
		}
	}
}

// wakeUp ends a sleep, or the next one if there is none.
func (s *sleeper) wakeUp() { _, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// wait sleeps until something is ready or the time is up, and takes the kicks off their eventfds.
func (s *sleeper) wait(limit time.Duration, g *guard) {
	n, err := unix.EpollWait(s.epoll, s.ready[:], int(limit/time.Millisecond))
	if err != nil {
		return
	}
	var count [8]byte
	for _, e := range s.ready[:n] {
		fd := int(e.Fd)
		if fd == s.wake {
			_, _ = unix.Read(fd, count[:])
		} else if r := s.kicks[fd]; r != nil {
			g.enter(fd, false, r.port)
			if _, err := unix.Read(fd, count[:]); err == nil {
				r.c.kicks.Add(1)
			}
			g.leave()
		}
	}
}

// rest is called after each round without work; idle is when the idleness began (zero: just now). It keeps polling for a while, then asks
// the guests for kicks, looks once more, and sleeps. It returns when the idleness began.
func (w *worker) rest(idle time.Time) time.Time {
	if w.sw.config.Busy || w.polls() {
		return idle
	}
	now := time.Now()
	if idle.IsZero() {
		return now
	}
	if now.Sub(idle) < w.sleep.spin {
		return idle
	}
	w.wantKicks(true)
	w.fence.Full()
	if !w.anythingAvailable() {
		w.doze(now)
	}
	w.wantKicks(false)
	return time.Time{}
}

// polls tells whether the worker receives from an uplink queue that cannot wake it up.
func (w *worker) polls() bool {
	for _, u := range w.uplink {
		if u.queue.FD() < 0 {
			return true
		}
	}
	return false
}

// doze sleeps and adapts how long to poll before the next sleep: a sleep that ends at once was not worth its system calls.
func (w *worker) doze(now time.Time) {
	w.stats.busy.Add(w.sw.now() - w.stats.since.Swap(0))
	w.stats.sleeps.Add(1)
	w.sleep.wait(w.napTime(), &w.guard)
	w.stats.since.Store(w.sw.now())
	w.stats.wakeups.Add(1)
	if time.Since(now) < shortSleep {
		w.sleep.spin = min(4*w.sleep.spin, maxSpin)
	} else {
		w.sleep.spin = max(w.sleep.spin/2, minSpin)
	}
}

// napTime bounds a sleep: rings without a kick eventfd must be polled, and nobody tells that a device has read what it was lent.
func (w *worker) napTime() time.Duration {
	for _, r := range w.tx {
		if r.queue.KickFD() < 0 || r.loans.outstanding() {
			return time.Millisecond
		}
	}
	return time.Second
}

// wantKicks switches the kicks of the worker's rings on or off. Like all that touches a ring it may fault.
func (w *worker) wantKicks(want bool) {
	for _, r := range w.tx {
		if !r.port.broken.Load() {
			w.ringWantsKicks(r, want)
		}
	}
}

func (w *worker) ringWantsKicks(r *transmitRing, want bool) {
	defer w.recoverRing(r)
	r.queue.WantKicks(want)
}

func (w *worker) anythingAvailable() bool {
	if w.sw.table.Load() != w.table {
		return true
	}
	for _, r := range w.tx {
		if !r.port.broken.Load() && w.ringAvailable(r) {
			return true
		}
	}
	return false
}

func (w *worker) ringAvailable(r *transmitRing) (available bool) {
	defer w.recoverRing(r)
	return r.queue.Available()
}
