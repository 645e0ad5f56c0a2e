package vhost

import "time"

// Each change of the set of running rings makes every worker take over a new table. A device may make so many of them at once as setting up
// and stopping all its rings takes some times over, and then changesPerSecond; one that wants more waits in its own session, which costs nobody
// else anything.
const (
	changesAtOnce    = 64
	changesPerSecond = 100
)

// pace is a token bucket.
type pace struct {
	burst  float64
	tokens float64
	last   time.Time
	sleep  func(time.Duration)
}

func newPace(rings int) pace {
	burst := float64(changesAtOnce + 2*rings)
	return pace{burst: burst, tokens: burst, sleep: time.Sleep}
}

// wait takes a token, and waits for it if there is none.
func (p *pace) wait(now time.Time) {
	if !p.last.IsZero() {
		p.tokens = min(p.burst, p.tokens+now.Sub(p.last).Seconds()*changesPerSecond)
	}
	p.last = now
	if p.tokens--; p.tokens < 0 {
		p.sleep(time.Duration(-p.tokens / changesPerSecond * float64(time.Second)))
	}
}
