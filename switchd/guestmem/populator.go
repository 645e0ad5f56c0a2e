package guestmem

import (
	"sync"
	"time"
)

// Populator maps what is resident of whole guests into our page tables, behind what they do meanwhile: one goroutine, and with it one thread,
// for all guests together, which works half of the time at most. It goes from guest to guest piece by piece, so that one with much memory holds
// up no other. It runs while there is something to do; nothing has to be closed. It is safe for concurrent use.
type Populator struct {
	mu      sync.Mutex
	waiting []*Filling // in the order of their turns, without the one that is being worked on
	running bool       // the goroutine is there
	piece   int        // bytes to look at in one turn; the goroutine's alone
	urgent  chan struct{}
}

// NewPopulator makes a Populator without work.
func NewPopulator() *Populator { return &Populator{piece: firstPiece, urgent: make(chan struct{}, 1)} }

// Urgently runs f, which populates what somebody waits for, on the caller's goroutine: one such caller at a time, so that many guests that
// start together take no more than one processor from those that run, and before what is done behind. It does not run f, and returns false, if
// that did not become possible within the limit. A nil Populator runs it at once.
func (p *Populator) Urgently(limit time.Duration, f func()) bool {
	if p == nil {
		f()
		return true
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case p.urgent <- struct{}{}:
	case <-timer.C:
		return false
	}
	defer func() { <-p.urgent }()
	f()
	return true
}

// The time that a turn takes decides how much the next ones do: memory map changes and, before Linux 6.4, other faults wait for a system call
// that populates.
const (
	shortTurn  = 100 * time.Microsecond
	longTurn   = 400 * time.Microsecond
	firstPiece = 256 << 10
	leastPiece = 64 << 10
	workAtOnce = 500 * time.Microsecond // between pauses as long as the work
	maxYields  = 5                      // milliseconds that a turn waits for urgent work
)

// Filling is one guest's turn at a Populator. A nil Filling is one that has ended.
type Filling struct {
	populator *Populator
	memory    *Memory // a share of its own
	region    int     // where to go on
	offset    int     // in the region's mapping
	stopped   bool    // Populator.mu
	ended     bool    // Populator.mu
}

// Fill begins to populate a memory and returns at once. It keeps the mappings until it is done or stopped. A nil Populator does nothing.
func (p *Populator) Fill(m *Memory) *Filling {
	if p == nil {
		return nil
	}
	f := &Filling{populator: p, memory: m.share()}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, f)
	if !p.running {
		p.running = true
		go p.run()
	}
	return f
}

// Active tells whether there may be something left to do.
func (f *Filling) Active() bool {
	if f == nil {
		return false
	}
	f.populator.mu.Lock()
	defer f.populator.mu.Unlock()
	return !f.stopped && !f.ended
}

// Stop ends it and waits for nothing. The mappings are given up before it returns, or after the system call that is populating one of them.
func (f *Filling) Stop() {
	if f == nil {
		return
	}
	p := f.populator
	p.mu.Lock()
	defer p.mu.Unlock()
	f.stopped = true
	for i, w := range p.waiting {
		if w == f {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			f.end()
			return
		}
	}
}

// end gives up the mappings. The caller holds Populator.mu.
func (f *Filling) end() {
	f.ended = true
	f.memory.Close()
}

func (p *Populator) run() {
	worked := time.Duration(0)
	for f := p.next(); f != nil; f = p.next() {
		begin := time.Now()
		more := f.turn(p.piece)
		took := time.Since(begin)
		p.finish(f, more)
		switch {
		case took > longTurn:
			p.piece = max(p.piece/2, leastPiece)
		case took < shortTurn:
			p.piece = min(2*p.piece, maxScan)
		}
		if worked += took; worked >= workAtOnce {
			time.Sleep(worked)
			worked = 0
		}
		for range maxYields {
			if len(p.urgent) == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// next takes the first in the queue; without one the goroutine ends.
func (p *Populator) next() *Filling {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		p.running = false
		return nil
	}
	f := p.waiting[0]
	p.waiting = p.waiting[1:]
	return f
}

// finish puts a guest behind the others, or ends its turns.
func (p *Populator) finish(f *Filling, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if more && !f.stopped {
		p.waiting = append(p.waiting, f)
		return
	}
	f.end()
}

// turn does a piece and tells whether there is more.
func (f *Filling) turn(piece int) bool {
	if f.region == len(f.memory.regions) {
		return false
	}
	mp := f.memory.regions[f.region].mapping
	to := min(len(mp.data), f.offset+piece)
	if mp.residency != unknown {
		mp.populate(f.offset, to)
	}
	if f.offset = to; to == len(mp.data) || mp.residency == unknown {
		f.region, f.offset = f.region+1, 0
	}
	return f.region < len(f.memory.regions)
}
