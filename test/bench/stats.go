package main

import "slices"

// summary is what the samples of one peer and one work say together.
type summary struct {
	Peer      string  `json:"peer"`
	Work      work    `json:"work"`
	Median    float64 `json:"median"` // Mpps, or for latency the median in microseconds
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
	P99       float64 `json:"p99_us,omitempty"`
	P999      float64 `json:"p999_us,omitempty"`
	Samples   int     `json:"samples"`
	Discarded int     `json:"discarded"`
	Failed    string  `json:"failed,omitempty"`
	Limit     string  `json:"limit"` // "switch", "generator", or "" where it cannot be told
}

// waits is the share of the time without anything to do above which one side is waiting for the other.
const waits = 0.1

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	s := slices.Clone(list)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// summarize puts the samples of one peer and one work together. Where all of them had to be discarded, they are used all the same, and
// Discarded tells.
func summarize(samples []sample) summary {
	var kept, discarded []sample
	r := summary{}
	for _, s := range samples {
		r.Peer, r.Work = s.Peer, s.Work
		switch {
		case s.Failed != "":
			r.Failed = s.Failed
		case s.Discarded != "":
			discarded = append(discarded, s)
		default:
			kept = append(kept, s)
		}
	}
	r.Samples, r.Discarded = len(kept), len(discarded)
	if len(kept) == 0 {
		kept = discarded
	}
	if len(kept) == 0 {
		return r
	}
	pick := func(f func(sample) float64) (list []float64) {
		for _, s := range kept {
			list = append(list, f(s))
		}
		return list
	}
	values := pick(func(s sample) float64 { return s.Mpps })
	if r.Work.latency() {
		values = pick(func(s sample) float64 { return s.P50 })
	}
	r.Failed = ""
	r.Median, r.Low, r.High = median(values), slices.Min(values), slices.Max(values)
	r.P99, r.P999 = median(pick(func(s sample) float64 { return s.P99 })), median(pick(func(s sample) float64 { return s.P999 }))
	if idle := median(pick(func(s sample) float64 { return s.Idle })); r.Work.Name == "W2" || r.Work.Name == "W3" {
		r.Limit = "generator"
		if idle > waits {
			r.Limit = "switch"
		}
	}
	if r.Work.Name == "W1" && r.Peer == "switchd" { // testpmd does not tell, but switchd does
		r.Limit = "switch"
		if median(pick(func(s sample) float64 { return s.SwitchIdle })) > waits {
			r.Limit = "generator"
		}
	}
	return r
}

func (w work) latency() bool { return w.Name == "latency" || w.Name == "rate" }
