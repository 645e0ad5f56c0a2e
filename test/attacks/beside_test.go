package attacks

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"vhostkit/test/frontend"
)

// scene is what an attacker has: a switch, his user, and the time until he is told to stop.
type scene struct {
	d    *daemon
	uid  int
	stop atomic.Bool
	done chan struct{}
	hits atomic.Int64 // what the attack did, in its own unit
}

// attack is something that goes on beside an innocent pair. run returns when the scene stops, and leaves nothing connected.
type attack struct {
	name  string
	cheap bool // also from the user of the innocent
	run   func(*scene)
}

// begin starts an attack; the function that is returned ends it and waits for that.
func (d *daemon) begin(a attack, uid int) (s *scene, end func()) {
	s = &scene{d: d, uid: uid, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		a.run(s)
	}()
	return s, func() {
		s.stop.Store(true)
		<-s.done
	}
}

// device is a front-end of the attacker's, or nil when it is refused.
func (s *scene) device(c frontend.Config) *frontend.Device {
	c.Socket = s.d.socket
	d, err := dial(s.uid, c)
	if err != nil {
		time.Sleep(time.Millisecond)
		return nil
	}
	return d
}

// devices are n of them, or as many as there may be.
func (s *scene) devices(n int, c frontend.Config) (list []*frontend.Device, close func()) {
	for range n {
		if d := s.device(c); d != nil {
			list = append(list, d)
		}
	}
	return list, func() {
		for _, d := range list {
			d.Close()
		}
	}
}

// crowd is a switch with other guests that do nothing: they do not even take what floods bring them.
type crowd struct {
	idle int
	d    *daemon
	all  []*tiny
	rate int // frames a second that an innocent pair of this switch carries without loss
}

// fresh gives a running switch with its crowd; a new one if an attack has left the last one in a bad state.
func (c *crowd) fresh(t *testing.T, broken bool) *daemon {
	t.Helper()
	if c.d != nil && !broken && !c.d.dead() {
		return c.d
	}
	if c.d != nil {
		_ = c.d.cmd.Process.Kill()
		<-c.d.ended
	}
	for _, g := range c.all {
		g.close()
	}
	c.all = nil
	// It comes before all else on this machine, attackers included, as a switch with cores of its own does.
	c.d = newDaemon(t, "--tx-csum", "1", "--tso", "1")
	c.d.before = []string{"nice", "-n", "-15"}
	c.d.launch(t, c.d.out)
	for i := range c.idle {
		g, err := newTiny(innocent, c.d.socket)
		if err != nil {
			t.Fatalf("idle guest %d does not get on: %v", i, err)
		}
		t.Cleanup(g.close)
		c.all = append(c.all, g)
	}
	return c.d
}

const (
	attackLasts = time.Second
	mustKeep    = 0.9
)

// TestBeside: beside each attack an innocent pair keeps nine tenths of its frames and more, with few and with 400 other ports. Before and afterwards it
// loses nothing.
func TestBeside(t *testing.T) {
	for _, g := range []struct {
		name      string
		idle, uid int
		cheap     bool
	}{{"few ports", 2, hostile, false}, {"few ports, same user", 2, innocent, true}, {"400 ports", 400, hostile, false}} {
		t.Run(g.name, func(t *testing.T) {
			c := &crowd{idle: g.idle}
			broken := false
			var table []string
			for _, a := range attacks() {
				if g.cheap && !a.cheap {
					continue
				}
				d := c.fresh(t, broken)
				broken = !t.Run(a.name, func(t *testing.T) {
					y, hits := c.beside(t, d, a, g.uid)
					table = append(table, fmt.Sprintf("%-34s %5.1f %% of %d frames/s, longest gap %7v (%d)", a.name, 100*y.share(), c.rate,
						y.gap.Round(100*time.Microsecond), hits))
				})
			}
			for _, line := range table {
				t.Log(line)
			}
		})
	}
}

func (c *crowd) beside(t *testing.T, d *daemon, a attack, uid int) (tally, int64) {
	p := newPair(t, d, innocent)
	if c.rate == 0 {
		c.rate = p.pace(t)
	}
	p.keepsTalking(t, "before the attack")
	s, end := d.begin(a, uid)
	time.Sleep(200 * time.Millisecond) // its devices get on
	before, waited := p.drops(), d.waited()
	y := p.traffic(attackLasts, c.rate, false)
	waited = d.waited() - waited
	end()
	if y.share() < mustKeep || y.disorder != 0 {
		t.Errorf("beside the attack: %v, %d in disorder; switchd waited %v for processors; drops before: %s, now: %s",
			y, y.disorder, waited.Round(time.Millisecond), before, p.drops())
	}
	eventually(t, 10*time.Second, "the innocent pair talks after the attack", func() bool { return p.traffic(5*time.Millisecond, 1000, true).kept > 0 })
	p.keepsTalking(t, "after the attack")
	d.goesOn(t)
	return y, s.hits.Load()
}

// TestStopBesides: SIGTERM ends the switch in time in the middle of each attack.
func TestStopBesides(t *testing.T) {
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			d := start(t)
			_, end := d.begin(a, hostile)
			time.Sleep(250 * time.Millisecond)
			took := d.stop(t)
			end()
			t.Logf("%v", took.Round(time.Millisecond))
		})
	}
}
