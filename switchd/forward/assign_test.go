package forward

import (
	"errors"
	"slices"
	"testing"
)

// TestAssign: new rings go to the worker with the fewest, the lowest number on a tie; when rings leave, the rest is levelled with as few moves
// as possible.
func TestAssign(t *testing.T) {
	for _, c := range []struct {
		name    string
		before  []int // worker of each ring, -1 for a new one
		workers int
		want    []int
	}{
		{"one worker", []int{-1, -1, -1}, 1, []int{0, 0, 0}},
		{"new rings in turn", []int{-1, -1, -1, -1}, 2, []int{0, 1, 0, 1}},
		{"to the least loaded", []int{0, 0, 1, -1}, 3, []int{0, 0, 1, 2}},
		{"after devices left", []int{0, 0, 0, 0}, 2, []int{1, 1, 0, 0}},
		{"level already", []int{1, 0, 1}, 2, []int{1, 0, 1}},
	} {
		var rings []*transmitRing
		for _, w := range c.before {
			rings = append(rings, &transmitRing{worker: w})
		}
		assign(rings, c.workers)
		var got []int
		for _, r := range rings {
			got = append(got, r.worker)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v becomes %v, want %v", c.name, c.before, got, c.want)
		}
	}
}

// TestIdentifiersHaveVLANs: no port gets an identifier whose VLAN would be past the last one.
func TestIdentifiersHaveVLANs(t *testing.T) {
	for base, want := range map[int]int{1000: MaxPorts, 1: MaxPorts, 4090: 5, 4094: 1} {
		s := New(Config{VLANBase: base, OnEvent: func(Event) {}})
		n := 0
		for {
			p, err := s.AddPort(func(error) {})
			if err != nil {
				if !errors.Is(err, ErrTooManyPorts) {
					t.Error(err)
				}
				break
			}
			if n++; p.VLAN() > 4094 || int(p.VLAN()) != base+int(p.ID()) {
				t.Fatalf("--vlan-base %d: port %d has VLAN %d", base, p.ID(), p.VLAN())
			}
		}
		if n != want {
			t.Errorf("--vlan-base %d: %d ports, want %d", base, n, want)
		}
	}
}
