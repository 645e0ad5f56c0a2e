package pci

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// Stretches never overlap, stay inside, keep step with the host's address, and come back when they were given back.
func TestSpace(t *testing.T) {
	const end = 1 << 36
	var s space
	rnd := rand.New(rand.NewPCG(1, 2))
	type given struct{ iova, size uint64 }
	var list []given
	for i := range 3000 {
		if len(list) > 0 && rnd.IntN(3) == 0 {
			k := rnd.IntN(len(list))
			s.give(list[k].iova, list[k].size)
			list = append(list[:k], list[k+1:]...)
			continue
		}
		size := uint64(4096) << rnd.IntN(19)
		host := rnd.Uint64N(1<<47) &^ 4095
		iova, err := s.take(host, size, end)
		if errors.Is(err, ErrUnsupported) && len(list) > 0 {
			continue
		}
		if err != nil || iova < firstRegion || iova+size > end || iova%4096 != 0 {
			t.Fatalf("step %d: %d bytes at %#x: %v", i, size, iova, err)
		}
		if size >= hugepage && (iova^host)%hugepage != 0 {
			t.Fatalf("step %d: %#x is out of step with %#x", i, iova, host)
		}
		for _, o := range list {
			if iova < o.iova+o.size && o.iova < iova+size {
				t.Fatalf("step %d: %#x+%#x overlaps %#x+%#x", i, iova, size, o.iova, o.size)
			}
		}
		list = append(list, given{iova, size})
	}
	for _, o := range list {
		s.give(o.iova, o.size)
	}
	if size := uint64(end - firstRegion); len(s.taken) != 0 {
		t.Errorf("%v are left", s.taken)
	} else if _, err := s.take(0, size, end); err != nil {
		t.Errorf("the whole space: %v", err)
	} else if _, err := s.take(0, 4096, end); !errors.Is(err, ErrUnsupported) {
		t.Errorf("one page more: %v", err)
	}
	if _, err := s.take(0, ^uint64(0)-4095, end); !errors.Is(err, ErrUnsupported) {
		t.Errorf("more than there are addresses: %v", err)
	}
}
