package switchd

import (
	"math"
	"runtime/metrics"

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
