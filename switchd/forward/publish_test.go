package forward

import (
	"testing"
	"time"

	"vhostkit/switchd/ticks"
	"vhostkit/switchd/virtio"
)

// standing is a switch that is said to run, with a worker that takes over nothing before the test lets it pass.
func standing(t *testing.T) *Switch {
	t.Helper()
	s := New(Config{Cores: []int{-1}, MACLimit: 64, OnEvent: func(Event) {}})
	w, err := newWorker(s, 0, -1, ticks.Measure(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	s.workers = []*worker{w}
	return s
}

// TestOnlyTakingAwayIsWaitedFor: a worker that hangs holds up nobody who adds rings, and everybody who takes rings or memory away from it.
func TestOnlyTakingAwayIsWaitedFor(t *testing.T) {
	s := standing(t)
	g := newGuest(t, s, 16)
	s.running.Store(true)
	both, rxOnly, txOnly := []*virtio.Queue{g.rx.queue, g.tx.queue}, []*virtio.Queue{g.rx.queue}, []*virtio.Queue{nil, g.tx.queue}
	// returns calls fn, and tells whether it returned although the worker did not move; then the worker moves.
	returns := func(fn func()) bool {
		t.Helper()
		done := make(chan bool)
		go func() { fn(); close(done) }()
		at := false
		select {
		case <-done:
			at = true
		case <-time.After(50 * time.Millisecond):
		}
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			s.workers[0].passed.Store(s.table.Load().epoch)
			select {
			case <-done:
				return at
			default:
			}
			if time.Now().After(end) {
				t.Fatal("it does not return when the worker has passed")
			}
		}
	}
	update := func(rings []*virtio.Queue) func() {
		return func() { g.port.Update(rings, rigFeatures, g.memory) }
	}
	for _, c := range []struct {
		name    string
		do      func()
		returns bool
	}{
		{"the same again", update(both), true},
		{"a transmit ring goes", update(rxOnly), false},
		{"it comes back", update(both), true},
		{"a receive ring goes", update(txOnly), false},
		{"all rings go, the memory stays", update(nil), false},
		{"they come back", update(both), true},
		{"other memory", func() { g.port.Update(both, rigFeatures, newGuest(t, New(Config{}), 16).memory) }, false},
		{"the port goes", g.port.Close, false},
	} {
		if got := returns(c.do); got != c.returns {
			t.Errorf("%s: returns before the worker has passed: %v, want %v", c.name, got, c.returns)
		}
	}
}

// TestNewRingsAreMadeKnown: the drivers of new rings are woken even where the first worker skips the tables in which they came, once it has had
// one of them no more, and not if they have gone before.
func TestNewRingsAreMadeKnown(t *testing.T) {
	for name, running := range map[string]bool{"before Run": false, "while running": true} {
		t.Run(name, func(t *testing.T) {
			s := standing(t)
			first := func() map[*virtio.Queue]bool {
				known := map[*virtio.Queue]bool{}
				for _, f := range s.table.Load().fresh {
					known[f.queue] = true
				}
				return known
			}
			a, b := newGuest(t, s, 16), newGuest(t, s, 16)
			b.port.Update(nil, rigFeatures, nil)
			s.running.Store(running)
			c, err := s.AddPort(func(error) {})
			if err != nil {
				t.Fatal(err)
			}
			late := newRing(t, a.memory, 0x100000, 16, true, rigFeatures)
			c.Update([]*virtio.Queue{late.queue}, rigFeatures, a.memory)
			if known := first(); !known[a.rx.queue] || !known[a.tx.queue] || !known[late.queue] || known[b.rx.queue] || len(known) != 3 {
				t.Errorf("%d rings are to be made known: %v", len(known), known)
			}
			s.workers[0].passed.Store(s.table.Load().epoch)
			c.Update([]*virtio.Queue{late.queue}, rigFeatures, a.memory)
			if known := first(); running && len(known) != 0 {
				t.Errorf("%d rings are to be made known again", len(known))
			}
		})
	}
}
