package forward

import (
	"context"
	"time"

	"vhostkit/switchd/ether"
)

// quietSeconds is how long a port's complaints about addresses are kept to one.
const quietSeconds = 10

// emit queues an event. Workers call it, so it never blocks; what does not fit is counted, and made up for if the uplink needs to know it.
func (s *Switch) emit(e Event) {
	select {
	case s.events <- e:
	default:
		s.eventsLost.Add(1)
		if e.Kind == EventRegistered || e.Kind == EventUnregistered {
			s.behind.Store(true)
		}
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
			s.catchUp()
			s.reportFailures()
		}
	}
}

func (s *Switch) handle(e Event) {
	if s.config.Uplink != nil {
		switch e.Kind {
		case EventRegistered:
			e.Err = s.filter(ether.MAC(e.MAC), e.Port)
		case EventUnregistered:
			e.Err = s.unfilter(ether.MAC(e.MAC))
		}
	}
	s.config.OnEvent(e)
}

func (s *Switch) refill() {
	now := uint32(time.Since(s.start)/time.Second) + 1
	if before := s.clock.Load(); now != before {
		s.domain.Step(before)
		s.clock.Store(now)
		s.age(now)
		s.retryFilters()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		if p != nil {
			p.learnBudget.Store(learnBudget)
			p.refillAnnouncements()
		}
	}
	s.refillPatience()
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
