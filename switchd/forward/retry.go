package forward

import "time"

// With rx-retry a worker waits for a receiver whose ring is full. That is time of everybody whose frames the worker forwards, so there is a budget
// of it, refilled with every tick: what a port and a worker have used up is not waited any more, and frames are dropped at once.
const (
	// portPatience is how long all workers together wait for a port in a tick: 1 % of the time.
	portPatience = tick / 100
	// workerPatience is how long a worker waits in a tick, however many ports make it wait: 5 % of its time.
	workerPatience = tick / 20
)

// retry waits for the guest to offer buffers and tries again, as often as configured and as long as the budgets last, unless all retries were in
// vain before and the guest has not offered anything since: a guest that sleeps or hangs must not slow the others down.
func (w *worker) retry(rx *receiveRing, d *delivery) {
	left := time.Duration(min(rx.port.patience.Load(), w.patience.Load()))
	if rx.stalled.Load() || left <= 0 {
		return
	}
	before, begin := d.arrived, time.Now()
	w.notify() // the guest may be waiting to hear of what it has got
	rounds := 0
	for rounds < w.sw.config.RxRetryNum && len(d.list) > 0 && !rx.port.broken.Load() && time.Since(begin) < left {
		rounds++
		rx.c.retries.Add(1)
		for until := min(time.Since(begin)+w.sw.config.RxRetryDelay, left); time.Since(begin) < until; {
		}
		w.enqueue(rx, d)
		w.notify()
	}
	spent := int64(time.Since(begin))
	rx.port.patience.Add(-spent)
	w.patience.Add(-spent)
	if d.arrived == before && rounds == w.sw.config.RxRetryNum {
		rx.stalled.Store(true)
	}
}

// refillPatience begins a new tick. The caller holds mu.
func (s *Switch) refillPatience() {
	for _, p := range s.ports {
		if p != nil {
			p.patience.Store(int64(portPatience))
		}
	}
	for _, w := range s.workers {
		w.patience.Store(int64(workerPatience))
	}
}
