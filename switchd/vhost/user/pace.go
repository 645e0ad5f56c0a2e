package user

import (
	"sync"
	"time"

	"vhostkit/switchd/vhost"
)

// A front-end that cannot be served and comes back at once costs a connection and lines in the log each time. So the connection is kept for
// a while before it is closed, longer from time to time; a front-end that itself waits between its tries, as QEMU does (reconnect=), meets
// the shortest of these delays alone. The account is kept per process: other guests' QEMUs are often the same user's.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 5 * time.Second
	calm       = 900 * time.Millisecond // who stays away that long waits by itself
	// A front-end may come and go by itself that often in a row, and so often a second after that.
	freeVisits, visitsPerSecond = 1024, 100
	shortVisit                  = time.Second
	maxPaces                    = 1024 // processes that are remembered
)

// pace is what a process has done at a socket lately.
type pace struct {
	delay  time.Duration
	last   time.Time // when its last connection ended, or will
	visits bucket    // short ones
}

// next is how long to keep the next connection.
func (p *pace) next(now time.Time) time.Duration {
	if now.Sub(p.last) > calm {
		p.delay = firstDelay
	} else {
		p.delay = min(max(p.delay+p.delay/2, firstDelay), lastDelay)
	}
	p.last = now.Add(p.delay)
	return p.delay
}

// bucket allows so many things at once, and so many a second.
type bucket struct {
	left float64
	last time.Time
}

func (b *bucket) take(now time.Time, size, perSecond float64) bool {
	if b.last.IsZero() {
		b.left = size
	} else {
		b.left = min(size, b.left+now.Sub(b.last).Seconds()*perSecond)
	}
	b.last = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// paces are those of all processes at a socket.
type paces struct {
	mu  sync.Mutex
	all map[[2]int]*pace
}

func (p *paces) of(peer vhost.Peer) *pace {
	key := [2]int{peer.UID, peer.PID}
	if v := p.all[key]; v != nil {
		return v
	}
	if len(p.all) >= maxPaces || p.all == nil { // processes that are forgotten begin anew, with the first delay
		p.all = map[[2]int]*pace{}
	}
	v := &pace{}
	p.all[key] = v
	return v
}

// refused is how long to keep a connection that is not served.
func (p *paces) refused(peer vhost.Peer, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of(peer).next(now)
}

// left notes that a front-end has gone by itself.
func (p *paces) left(peer vhost.Peer, now time.Time, stayed time.Duration) {
	if stayed > shortVisit {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.of(peer)
	v.visits.take(now, freeVisits, visitsPerSecond)
}

// wait is how long a new connection of a process that comes and goes without end is to wait.
func (p *paces) wait(peer vhost.Peer, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.all[[2]int{peer.UID, peer.PID}]
	if v == nil || v.visits.last.IsZero() || v.visits.left+now.Sub(v.visits.last).Seconds()*visitsPerSecond >= 1 {
		return 0
	}
	return v.next(now)
}
