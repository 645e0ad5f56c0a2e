package forward

import (
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ticks"
	"vhostkit/switchd/virtio"
)

// Who is served, and how much of it, is decided by port, not by ring, and by what it costs, not by frames: deficit round robin (M. Shreedhar and
// G. Varghese, 1995). In each round a port may move quantum bytes. What costs more time than bytes of its length do, costs as many bytes as could
// have been moved meanwhile. A port that took too much waits for the rounds that pay for it, if somebody else has frames; else it is
// forgiven at once.
//
// Bursts that are slow beyond that (page faults on memory that is touched for the first time, frames for hundreds of receivers) would hold up
// everybody for one burst each. A port that makes them gets shorter bursts, down to one frame, and while others have frames all such
// ports together get a tenth of the worker's time. A port that has just started is treated so until a few bursts were quick.
//
// Not every slow burst is its port's doing: interrupts and whoever else uses the machine stop a worker for some hundred microseconds now and then,
// several times in a row, and the kernel counts that as time in which it ran. A slow burst without a page fault and without a frame for everybody
// is forgiven a port that was quick for long, and all ports together no more than is no loss.
const (
	quantum = 96 << 10 // bytes a round: 64 frames of 1518
	// frameCost is what a frame costs beyond its bytes.
	frameCost = 64
	// bytesPerMicrosecond is what time costs.
	bytesPerMicrosecond = 6000
	// A burst is slow if it takes longer than slowBurst + slowFrame for each of its frames + slowKilobyte for each 1024 of its bytes.
	slowBurst    = 150 * time.Microsecond
	slowFrame    = 3 * time.Microsecond
	slowKilobyte = time.Microsecond
	// slowRound is how long slow ports may take in one round, but for the last burst.
	slowRound = 200 * time.Microsecond
	// slowShare: after a slow burst the next must wait so many times as long as it took, but not longer than slowWait.
	slowShare = 9
	slowWait  = 20 * time.Millisecond
	// A port earns one graceShare-th of the time, at most graceMost, and a worker forgives one forgiveShare-th of its time to all.
	graceShare   = 64
	forgiveShare = 32
	graceMost    = 20 * time.Millisecond
	// othersLately: who had frames within that time has a claim on the rest of the worker's time.
	othersLately = 5 * time.Millisecond
	// floodTime ends a burst after a frame for everybody.
	floodTime = 100 * time.Microsecond
	// cpuSample is how often a worker asks how much processor time it was given.
	cpuSample = time.Millisecond
)

// turn is what a worker remembers of a port. It is the worker's alone.
type turn struct {
	credit  int // bytes that it may still move
	limit   int // buffers in a burst at most, virtio.BurstSize unless the port is slow
	average int // bytes of a buffer, lately
	next    int // the ring to begin with
	grace   grace
	_       [2]int
}

func newTurns(workers int) []turn {
	t := make([]turn, workers)
	for i := range t {
		t[i] = turn{credit: quantum, limit: 1}
	}
	return t
}

// grace is time that may be forgiven, which grows while nothing has to be.
type grace struct {
	left int64 // ticks
	at   int64 // ticks, when that was so
}

// earn adds a part of the time since then.
func (g *grace) earn(now, part, most int64) {
	g.left, g.at = min(g.left+(now-g.at)/part, most), now
}

// share is what a worker has of a port: its rings, or some of them.
type share struct {
	turn  *turn
	rings []*transmitRing
}

// pace are the schedule's constants in ticks, and where a worker stands.
type pace struct {
	slowBurst, slowFrame, slowKilobyte, slowRound, slowWait, othersLately, floodTime, cpuSample, graceMost int64
	bytesPer1024                                                                                           int64 // ticks

	shares   []share
	first    int   // the share to begin with
	measured bool  // there is somebody to be fair to
	now      int64 // ticks, at the end of the last burst
	moved    int   // bytes, since then
	waiting  bool  // a share was passed over in this round

	lastOthers int64 // ticks, when a port that is not slow last had frames
	slowUntil  int64 // ticks, until when slow ports wait for others
	slowUsed   int64 // ticks that slow ports took in this round
	grace      grace // of all ports together

	flooded        bool  // since then, a frame for everybody was delivered
	cpuAt, cpuUsed int64 // ticks and nanoseconds of the last sample
	usage          unix.Rusage
	faults         int64 // page faults up to the last sample
	scale          ticks.Scale
}

func (p *pace) init(s ticks.Scale) {
	p.scale = s
	p.slowBurst, p.slowFrame, p.slowKilobyte = s.Of(slowBurst), s.Of(slowFrame), s.Of(slowKilobyte)
	p.slowRound, p.slowWait, p.othersLately = s.Of(slowRound), s.Of(slowWait), s.Of(othersLately)
	p.floodTime, p.cpuSample, p.graceMost = s.Of(floodTime), s.Of(cpuSample), s.Of(graceMost)
	p.bytesPer1024 = bytesPerMicrosecond << 10 / max(s.Of(time.Microsecond), 1)
}

// divide makes the shares of the rings that a new table gives the worker; a port's rings stand together there.
func (p *pace) divide(rings []*transmitRing, worker int, uplink bool) {
	clear(p.shares[:cap(p.shares)]) // ports that have gone are not held on to
	p.shares = p.shares[:0]
	for i := 0; i < len(rings); {
		j := i + 1
		for j < len(rings) && rings[j].port == rings[i].port {
			j++
		}
		p.shares = append(p.shares, share{&rings[i].port.turns[worker], rings[i:j]})
		i = j
	}
	p.first, p.measured = 0, uplink || len(p.shares) > 1
}

// round serves every share once and returns how many buffers it took. The share to begin with is another one each time.
func (w *worker) round() (work int) {
	p := &w.pace
	p.waiting, p.slowUsed = false, 0
	if p.measured {
		if p.now = ticks.Now(); p.now-p.cpuAt > p.cpuSample {
			p.sample()
		}
	}
	n := len(p.shares)
	for i := range p.shares[p.first:] {
		work += w.serve(&p.shares[p.first+i])
	}
	for i := range p.shares[:p.first] {
		work += w.serve(&p.shares[i])
	}
	if p.first++; p.first >= n {
		p.first = 0
	}
	if work == 0 && p.waiting {
		p.forgiveDebts()
	}
	return work
}

// serve gives a port its turn: its rings in turn, until its credit is used up.
func (w *worker) serve(s *share) (work int) {
	p, t := &w.pace, s.turn
	if t.credit < quantum {
		if t.credit = min(t.credit+quantum, quantum); t.credit <= 0 {
			p.waiting = true
			return 0
		}
	}
	if t.limit < virtio.BurstSize && p.measured && !p.slowMay() {
		p.waiting = true
		return 0
	}
	for i := range s.rings {
		at := t.next + i
		if at >= len(s.rings) {
			at -= len(s.rings)
		}
		n := w.ingress(s.rings[at], p.burst(t))
		if n == 0 {
			continue
		}
		work += n
		if p.measured && !p.charge(t, n) {
			t.next = at + 1
			break
		}
	}
	if t.next >= len(s.rings) {
		t.next = 0
	}
	return work
}

// burst is how many buffers a port's next burst may have.
func (p *pace) burst(t *turn) int {
	if !p.measured {
		return virtio.BurstSize
	}
	if t.average*t.limit > t.credit {
		return max(t.credit/t.average, 1)
	}
	return t.limit
}

// charge takes what a burst of n buffers cost off the port's credit, and reports whether some is left.
func (p *pace) charge(t *turn, n int) bool {
	now := ticks.Now()
	took, bytes := now-p.now, p.moved
	p.now, p.moved = now, 0
	t.average += (bytes/n - t.average) / 4
	switch {
	case took > p.slowBurst+int64(n)*p.slowFrame+int64(bytes>>10)*p.slowKilobyte:
		took = p.slow(t, n, took)
	case t.limit < virtio.BurstSize:
		p.useSlow(took)
		if t.limit = min(2*t.limit, virtio.BurstSize); t.limit == virtio.BurstSize {
			t.grace = grace{at: now}
		}
	default:
		p.lastOthers = now
	}
	p.flooded = false
	t.credit -= max(bytes+n*frameCost, int(took*p.bytesPer1024>>10))
	return t.credit > 0
}

// slow deals with a burst that took too long, unless that was because the thread was not running or is forgiven, and returns how much of that
// time counts.
func (p *pace) slow(t *turn, n int, took int64) int64 {
	stolen, faults := p.sample()
	took -= min(stolen, took)
	if took <= p.slowBurst+int64(n)*p.slowFrame {
		return took
	}
	if t.limit == virtio.BurstSize && faults == 0 && !p.flooded && p.forgiven(t, took) {
		p.lastOthers = p.now
		return 0
	}
	t.limit = max(min(t.limit, n)/4, 1)
	p.useSlow(took)
	return took
}

// forgiven takes a slow burst's time off the grace of its port and of all together, if both have so much.
func (p *pace) forgiven(t *turn, took int64) bool {
	t.grace.earn(p.now, graceShare, p.graceMost)
	p.grace.earn(p.now, forgiveShare, p.graceMost)
	if took > min(t.grace.left, p.grace.left) {
		return false
	}
	t.grace.left -= took
	p.grace.left -= took
	return true
}

// useSlow counts time that a slow port took.
func (p *pace) useSlow(took int64) {
	p.slowUsed += took
	p.slowUntil = p.now + min(slowShare*took, p.slowWait)
}

// slowMay tells whether a slow port may be served now.
func (p *pace) slowMay() bool {
	return p.slowUsed < p.slowRound && (p.now >= p.slowUntil || p.now-p.lastOthers > p.othersLately)
}

// forgiveDebts lets those go on at once who wait for rounds in which nobody else has anything.
func (p *pace) forgiveDebts() {
	for i := range p.shares {
		if t := p.shares[i].turn; t.credit <= 0 {
			t.credit = quantum
		}
	}
}

// sample tells for how many ticks since the last sample the thread did not run although it wanted to, and how many page faults it had.
func (p *pace) sample() (stolen, faults int64) {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil || unix.Getrusage(unix.RUSAGE_THREAD, &p.usage) != nil {
		return 0, 1
	}
	now, used, faulted := ticks.Now(), ts.Nano(), p.usage.Minflt+p.usage.Majflt
	stolen, faults = now-p.cpuAt-p.scale.Of(time.Duration(used-p.cpuUsed)), faulted-p.faults
	p.cpuAt, p.cpuUsed, p.faults = now, used, faulted
	return max(stolen, 0), faults
}
