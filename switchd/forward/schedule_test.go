package forward

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ticks"
	"vhostkit/switchd/virtio"
)

// TestWhoIsSlow: which slow bursts put a port among the slow ones, and which are forgiven.
func TestWhoIsSlow(t *testing.T) {
	runtime.LockOSThread() // whose processor time and page faults are sampled
	defer runtime.UnlockOSThread()
	const long, burst = 10 * time.Second, time.Millisecond
	fault := func(*pace) {
		page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			t.Fatal(err)
		}
		page[0] = 1
		_ = unix.Munmap(page)
	}
	nothing := func(*pace) {}
	for _, c := range []struct {
		name    string
		quick   time.Duration // how long the port has been so
		others  time.Duration // how long nobody was forgiven
		bursts  int
		during  func(*pace)
		forgive bool
	}{
		{"quick for long", long, long, 3, nothing, true},
		{"page faults", long, long, 1, fault, false},
		{"a frame for everybody", long, long, 1, func(p *pace) { p.flooded = true }, false},
		{"too often", long, long, 25, func(p *pace) { p.grace = grace{left: p.graceMost, at: ticks.Now()} }, false},
		{"too often, all together", long, 0, 1, nothing, false},
		{"quick for a moment", graceShare * burst / 10, long, 1, nothing, false},
		{"others were forgiven", long, forgiveShare * burst / 10, 1, nothing, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := pace{measured: true}
			p.init(ticks.Measure(time.Millisecond))
			mine := turn{credit: quantum, limit: virtio.BurstSize, grace: grace{at: ticks.Now() - p.scale.Of(c.quick)}}
			p.grace.at = ticks.Now() - p.scale.Of(c.others)
			p.sample()
			for range c.bursts {
				p.now = ticks.Now()
				c.during(&p)
				for end := p.now + p.scale.Of(burst); ticks.Now() < end; {
				}
				p.moved = 1500
				p.charge(&mine, 1)
			}
			if forgiven := mine.limit == virtio.BurstSize; forgiven != c.forgive {
				t.Errorf("%d slow bursts are forgiven: %v, want %v", c.bursts, forgiven, c.forgive)
			}
			if c.forgive && mine.credit < quantum/2 {
				t.Errorf("they cost %d bytes of credit", quantum-mine.credit)
			}
		})
	}
}

// TestQuickAgain: a port that was slow is not forgiven at once when it is quick again.
func TestQuickAgain(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := pace{measured: true}
	p.init(ticks.Measure(time.Millisecond))
	mine := turn{credit: quantum, limit: 1, grace: grace{at: ticks.Now() - p.scale.Of(time.Hour)}}
	for range 6 {
		p.now = ticks.Now()
		p.charge(&mine, 1)
	}
	if mine.limit != virtio.BurstSize {
		t.Fatalf("after six quick bursts the limit is %d", mine.limit)
	}
	p.sample()
	p.now = ticks.Now()
	for end := p.now + p.scale.Of(time.Millisecond); ticks.Now() < end; {
	}
	p.charge(&mine, 1)
	if mine.limit == virtio.BurstSize {
		t.Error("a slow burst right after it is forgiven")
	}
}
