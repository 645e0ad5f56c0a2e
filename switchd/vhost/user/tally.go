package user

import (
	"maps"
	"sync"
	"time"

	"vhostkit/switchd/vhost"
)

// Reason says why a front-end was not served, or not any more.
type Reason string

// The reasons, as they are counted.
const (
	ReasonInUse  Reason = "in_use"  // the named port has a device
	ReasonBudget Reason = "budget"  // it, its user, or the switch has used up what it may have
	ReasonNoPort Reason = "no_port" // the switch has no port for it
	ReasonSilent Reason = "silent"  // it connected and said nothing
	ReasonFailed Reason = "failed"  // it, or its guest, broke the rules
)

// Refusal is a connection that was refused, or ended for its own fault.
type Refusal struct {
	Time   time.Time
	Reason Reason
	Error  string
	Peer   vhost.Peer
}

// Counts are what came to a socket.
type Counts struct {
	Accepted uint64            // connections
	Devices  uint64            // that became devices
	Refused  map[Reason]uint64 // or ended for their own fault
	Last     *Refusal          // nil: none
}

// Tally counts what comes to a socket. The zero value is ready. It is safe for concurrent use.
type Tally struct {
	mu     sync.Mutex
	counts Counts
}

// Counts gives the present figures.
func (t *Tally) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts
	c.Refused = maps.Clone(c.Refused)
	return c
}

func (t *Tally) accepted() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Accepted++
}

func (t *Tally) device() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Devices++
}

// Refused counts a refusal.
func (t *Tally) Refused(r Refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts.Refused == nil {
		t.counts.Refused = map[Reason]uint64{}
	}
	t.counts.Refused[r.Reason]++
	t.counts.Last = &r
}
