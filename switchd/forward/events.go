package forward

import (
	"context"
	"time"

	"vhostkit/switchd/ether"
)

// quietSeconds is how long a port's complaints about addresses are kept to one.
const quietSeconds = 10

// emit queues an event. Workers call it, so it never blocks; what does not fit is counted.
func (s *Switch) emit(e Event) {
	select {
	case s.events <- e:
	default:
		s.eventsLost.Add(1)
	}
}

// emitOnce queues an event unless the port has complained in the last seconds: a hostile guest must not fill the log.
func (s *Switch) emitOnce(p *Port, e Event) {
	now, quiet := s.clock.Load(), p.quiet.Load()
	if now >= quiet && p.quiet.CompareAndSwap(quiet, now+quietSeconds) {
		s.emit(e)
	}
}

func (s *Switch) wakeEvents() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// serveEvents passes events on and does what has to be done from time to time, until ctx ends.
func (s *Switch) serveEvents(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-s.events:
			s.handle(e)
		case <-s.wake:
			s.reportFailures()
		case <-ticker.C:
			s.refill()
			s.reportFailures()
		}
	}
}

func (s *Switch) handle(e Event) {
	if s.config.Uplink != nil {
		s.filter(&e)
	}
	s.config.OnEvent(e)
}

// filter keeps the uplink's address filters in step with the address table. Software uplinks accept everything.
func (s *Switch) filter(e *Event) {
	var err error
	switch e.Kind {
	case EventRegistered:
		err = s.config.Uplink.AddFilter(e.Port, ether.MAC(e.MAC), uint16(e.VLAN))
		pool := e.Port
		if err != nil {
			pool = -1
		}
		s.setHardware(ether.MAC(e.MAC), pool)
	case EventUnregistered:
		s.setHardware(ether.MAC(e.MAC), -1)
		err = s.config.Uplink.RemoveFilter(e.Port, ether.MAC(e.MAC), uint16(e.VLAN))
	}
	if err != nil {
		e.Err = err
	}
}

func (s *Switch) refill() {
	now := uint32(time.Since(s.start)/time.Second) + 1
	if before := s.clock.Load(); now != before {
		s.fdb.step(before)
		s.clock.Store(now)
		s.age(now)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		if p != nil {
			p.learnBudget.Store(learnBudget)
		}
	}
}

// reportFailures tells the owners of ports that broke down, once each.
func (s *Switch) reportFailures() {
	s.mu.Lock()
	var failed []*Port
	for _, p := range s.ports {
		if p != nil && p.broken.Load() && !p.reported {
			p.reported = true
			failed = append(failed, p)
		}
	}
	s.mu.Unlock()
	for _, p := range failed {
		err := *p.failure.Load()
		s.config.OnEvent(Event{Kind: EventFailed, Port: p.id, Err: err})
		p.fail(err)
	}
}
