package main

import (
	"runtime"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	moved := []float64{48, 105, 110, 300, 520, 560}
	for _, c := range []struct {
		name, wanted string
		survey       []float64
		holds, not   []float64
	}{
		{"near is beside the siblings", "near", moved, []float64{105, 110, 200}, []float64{48, 300, 520}},
		{"far is where the caches are others", "far", moved, []float64{520, 560}, []float64{48, 110}},
		{"any takes all", "any", moved, []float64{48, 110, 560, 9000}, nil},
		{"cores that stay put", "near", []float64{90, 91, 93}, []float64{90, 93, 150}, []float64{40, 500}},
		{"nothing but siblings: there is no choice", "near", []float64{40, 45}, []float64{40, 45, 500}, nil},
		{"no survey", "far", nil, []float64{1}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := choose(c.wanted, c.survey)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range c.holds {
				if !p.holds(d) {
					t.Errorf("%s does not hold %v ns", p, d)
				}
			}
			for _, d := range c.not {
				if p.holds(d) {
					t.Errorf("%s holds %v ns", p, d)
				}
			}
		})
	}
	if _, err := choose("nearby", moved); err == nil || !strings.Contains(err.Error(), "near, far or any") {
		t.Errorf("an unknown wish: %v", err)
	}
}

func TestFlaw(t *testing.T) {
	near := placement{Low: 60, High: 200}
	for _, c := range []struct {
		name string
		s    sample
		want string
	}{
		{"well", sample{Before: 100, After: 110}, ""},
		{"moved under way", sample{Before: 100, After: 520}, "cores 100 ns apart before, 520 after"},
		{"never there", sample{Before: 520, After: 110}, "cores 520 ns apart before"},
		{"no processor", sample{Before: 100, After: 110, Waited: 0.05}, "waited 5 %"},
		{"threads that sleep", sample{Before: 520, After: 520, Waited: 0.5, Work: work{Name: "interrupt"}}, ""},
	} {
		if got := c.s.flaw(near); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if s := (sample{Before: 5, After: 5000}); s.flaw(placement{}) != "" {
		t.Error("where any place will do, one was refused")
	}
}

// A round trip takes time, wherever the cores are, and the thread that looked is free to run anywhere afterwards.
func TestRoundTrip(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Fatal("a round trip needs two processors")
	}
	if d := roundTrip(0, 1); d < 5 || d > 1e6 {
		t.Errorf("a cache line takes %v ns to the other core and back", d)
	}
	w := startWaker([2]int{0, 1})
	w.stop()
	w.stop() // again
}
