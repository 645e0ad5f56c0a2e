package forward

import (
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// spinsBeforeYield is how often a worker looks at what another worker owns before it lets other threads run.
	spinsBeforeYield = 1000
	// ownLimit is how long a worker waits for another one. A burst takes microseconds; whoever has a ring for longer hangs in a page fault or was
	// not given a processor, and the frames for that ring are dropped rather than those for all others held up.
	ownLimit = 50 * time.Millisecond
)

// owner lets one worker at a time have what several may use: a receive ring, a queue of the uplink.
type owner struct {
	held atomic.Uint32
	slow atomic.Bool // somebody gave up waiting; from then on nobody waits, until it is given back
}

// try takes it if nobody has it.
func (o *owner) try() bool { return o.held.CompareAndSwap(0, 1) }

// take waits until it is free, but not for ever: false means that it is not the caller's.
func (o *owner) take() bool { return o.try() || o.wait() }

func (o *owner) wait() bool {
	if o.slow.Load() {
		return o.try()
	}
	var begin time.Time
	for spins := 1; !o.try(); spins++ {
		if spins < spinsBeforeYield {
			continue
		}
		if runtime.Gosched(); begin.IsZero() {
			begin = time.Now()
		} else if time.Since(begin) > ownLimit {
			o.slow.Store(true)
			return false
		}
	}
	return true
}

// giveBack frees it.
func (o *owner) giveBack() {
	if o.slow.Load() {
		o.slow.Store(false)
	}
	o.held.Store(0)
}
