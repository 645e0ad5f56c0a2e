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
//
// Kicks are watched edge-triggered and never read: each write of the front-end to the eventfd wakes the worker once (epoll(7)), and reading a file
// that a front-end shares could block. The counter does not run over: it would take as many kicks as there are numbers of 64 bits.
type sleeper struct {
	epoll   int // -1 before init
	wake    int // eventfd
	spin    time.Duration
	look    uint64          // number of the last watch
	uplinks bool            // are watched
	rings   []*transmitRing // that are watched
	fresh   []*transmitRing // of these, since the last look
	kicks   map[int32]*transmitRing
	ready   [64]unix.EpollEvent
}

func (s *sleeper) init() error {
	s.epoll, s.wake = -1, -1
	var err error
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	s.spin = minSpin
	s.kicks = map[int32]*transmitRing{}
	return s.add(s.wake, unix.EPOLLIN)
}

func (s *sleeper) close() {
	for _, fd := range []int{s.epoll, s.wake} {
		if fd > 0 {
			unix.Close(fd)
		}
	}
}

func (s *sleeper) add(fd int, events uint32) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// watch makes the kicks of these rings, and these uplink queues, what the worker wakes up for. Only what has changed costs a system call. An
// eventfd that epoll refuses leaves its ring to the regular look-around of rest.
func (s *sleeper) watch(tx []*transmitRing, uplinks []*uplinkQueue) {
	s.look++
	s.fresh = s.fresh[:0]
	added := 0 // at the end of s.rings
	for _, r := range tx {
		if r.watcher != s {
			s.rings, s.fresh = append(s.rings, r), append(s.fresh, r)
			added++
		}
		r.watcher, r.watched = s, s.look
	}
	kept, before := s.rings[:0], len(s.rings)-added
	for i, r := range s.rings {
		fd := r.queue.KickFD()
		switch {
		case i >= before:
			if fd >= 0 && s.add(fd, unix.EPOLLIN|unix.EPOLLET) == nil {
				s.kicks[int32(fd)] = r
			}
		case r.watched == s.look:
		default: // gone, or another worker's
			if s.kicks[int32(fd)] == r {
				_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, fd, nil)
				delete(s.kicks, int32(fd))
			}
			if r.watcher == s {
				r.watcher = nil
			}
			continue
		}
		kept = append(kept, r)
	}
	clear(s.rings[len(kept):])
	s.rings = kept
	if !s.uplinks {
		s.uplinks = true
		for _, u := range uplinks {
			if fd := u.queue.FD(); fd >= 0 {
				_ = s.add(fd, unix.EPOLLIN)
			}
		}
	}
}

// wakeUp ends a sleep, or the next one if there is none.
func (s *sleeper) wakeUp() { _, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// wait sleeps until something is ready or the time is up, and tells whether that was the control side alone.
func (s *sleeper) wait(limit time.Duration) (control bool) {
	n, err := unix.EpollWait(s.epoll, s.ready[:], int(limit/time.Millisecond))
	if err != nil {
		return false
	}
	var count [8]byte
	for _, e := range s.ready[:n] {
		if int(e.Fd) == s.wake {
			_, _ = unix.Read(s.wake, count[:])
			control = n == 1
		} else if r := s.kicks[e.Fd]; r != nil {
			r.c.kicks.Add(1)
		}
	}
	return control
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
		for w.doze(now) && w.turnOver() {
		}
	}
	w.wantKicks(false)
	return time.Time{}
}

// turnOver does what the control side has woken the worker for, and tells whether it may sleep on: where many ports come and go, looking at the
// rings of all others each time would be most of the work. Those want kicks, and nobody has kicked.
func (w *worker) turnOver() bool {
	w.stats.rounds.Store(w.stats.rounds.Load() + 1)
	w.sleep.fresh = w.sleep.fresh[:0]
	if !w.adopt() || w.owes() {
		return false
	}
	for _, r := range w.sleep.fresh {
		if !r.port.broken.Load() {
			w.ringWantsKicks(r, true)
		}
	}
	w.fence.Full()
	if w.sw.table.Load() != w.table {
		return false
	}
	for _, r := range w.sleep.fresh {
		if !r.port.broken.Load() && w.ringAvailable(r) {
			return false
		}
	}
	return true
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

// doze sleeps and adapts how long to poll before the next sleep: a sleep that ends at once was not worth its system calls. It tells whether the
// control side alone ended it.
func (w *worker) doze(now time.Time) (control bool) {
	w.stats.busy.Add(w.sw.now() - w.stats.since.Swap(0))
	w.stats.sleeps.Add(1)
	nap := w.napTime()
	w.still.Store(true)
	control = w.sleep.wait(nap)
	w.awake()
	w.pace.sample()
	w.stats.since.Store(w.sw.now())
	if control {
		return true
	}
	w.stats.wakeups.Add(1)
	if time.Since(now) < shortSleep {
		w.sleep.spin = min(4*w.sleep.spin, maxSpin)
	} else {
		w.sleep.spin = max(w.sleep.spin/2, minSpin)
	}
	return false
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
