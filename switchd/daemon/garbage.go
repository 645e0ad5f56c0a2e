package daemon

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"vhostkit/switchd/control"
)

// runtimeStats asks the Go runtime about its garbage collector.
func runtimeStats() control.Runtime {
	samples := []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/sched/pauses/total/gc:seconds"}, {Name: "/memory/classes/heap/objects:bytes"},
	}
	metrics.Read(samples)
	r := control.Runtime{}
	if samples[0].Value.Kind() == metrics.KindUint64 {
		r.GCCycles = samples[0].Value.Uint64()
	}
	if samples[1].Value.Kind() == metrics.KindFloat64Histogram {
		r.GCPauseMax = longest(samples[1].Value.Float64Histogram()) * 1e6
	}
	if samples[2].Value.Kind() == metrics.KindUint64 {
		r.HeapBytes = samples[2].Value.Uint64()
	}
	return r
}

// longest is the upper end of the last class of a histogram that is not empty.
func longest(h *metrics.Float64Histogram) float64 {
	for i := len(h.Counts) - 1; i >= 0; i-- {
		if h.Counts[i] == 0 {
			continue
		}
		if high := h.Buckets[i+1]; !math.IsInf(high, 1) {
			return high
		}
		return h.Buckets[i]
	}
	return 0
}

// Garbage is collected when this process wants it, not when the runtime does: see forward.Switch.Parked. The data plane makes none, and the
// control side little.
const (
	// collectPoll is how often the heap is looked at.
	collectPoll = 50 * time.Millisecond
	// collectIdle is how many bytes of garbage, and at least a quarter of what is in use, are collected when all workers have slept for collectPoll:
	// hardly anybody notices.
	collectIdle = 1 << 20
	// collectBusy is how many make it worth stopping the workers, for some milliseconds.
	collectBusy = 256 << 20
	// parkTimeout is how long the workers may take to park: a burst takes much less.
	parkTimeout = 5 * time.Millisecond
	// tooMuch is how many bytes of garbage are worth a line in the log.
	tooMuch = 1 << 30
	// spareProcessors is how many system calls may be under way that take long: whoever is in one keeps a processor of the runtime until the
	// runtime notices, up to 10 ms, and a worker that wakes up needs one. One guest's memory is unmapped at a time, one is populated because it
	// starts, one behind. Each processor has memory of its own (TestFootprint).
	spareProcessors = 3
)

// tuneRuntime gives the workers processors of their own beside those of the control side, and takes the collector's timing from the runtime.
func tuneRuntime(workers int) {
	runtime.GOMAXPROCS(max(runtime.NumCPU(), workers) + spareProcessors)
	debug.SetGCPercent(-1)
}

// collect collects garbage until ctx ends.
func (d *Daemon) collect(ctx context.Context) {
	ticker := time.NewTicker(collectPoll)
	defer ticker.Stop()
	live, told, wakeups := heapBytes(), false, uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		before := wakeups
		wakeups = d.wakeups()
		idle := d.sw.Idle() && wakeups == before
		heap := heapBytes()
		garbage := heap - min(live, heap)
		if garbage < max(collectIdle, live/4) && garbage < collectBusy || garbage < collectBusy && !idle {
			continue
		}
		var swept <-chan struct{}
		if d.sw.Parked(parkTimeout, func() { swept = markGarbage() }) {
			<-swept
			live, told = heapBytes(), false
		} else if garbage > tooMuch && !told {
			told = true
			d.log.Error("garbage cannot be collected, because a worker does not come to the top of its loop; memory grows until it does",
				"heap_bytes", heap)
		}
	}
}

// wakeups is how often the workers have woken up.
func (d *Daemon) wakeups() (n uint64) {
	for _, w := range d.sw.Workers() {
		n += w.Wakeups
	}
	return n
}

// markGarbage runs a collection up to the end of marking, after which it stops the world no more. The channel is closed when it is all done.
func markGarbage() <-chan struct{} {
	before, swept := collections(), make(chan struct{})
	go func() {
		defer close(swept)
		debug.FreeOSMemory() // a collection, and what it freed goes back to the machine
	}()
	for collections() == before {
		time.Sleep(100 * time.Microsecond)
	}
	return swept
}

// collections is how many collections have been marked.
func collections() uint64 {
	sample := [1]metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(sample[:])
	return sample[0].Value.Uint64()
}

// heapBytes is what objects take, garbage included. It stops nobody.
func heapBytes() uint64 {
	sample := [1]metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample[:])
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
