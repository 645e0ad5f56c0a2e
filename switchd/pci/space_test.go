package pci

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"vhostkit/switchd/guestmem"
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

// Memory of others is mapped while our own is allocated, and the other way round: no address is given out twice.
func TestMapBesideAllocation(t *testing.T) {
	m := &mappings{next: 1 << 40}
	var mu sync.Mutex
	given := map[uint64]uint64{}
	give := func(_ guestmem.Ptr, iova, bytes uint64, _ int, _ uint64) error {
		mu.Lock()
		defer mu.Unlock()
		for at, size := range given {
			if iova < at+size && at < iova+bytes {
				t.Errorf("%d bytes at %#x meet %d at %#x", bytes, iova, size, at)
			}
		}
		given[iova] = bytes
		return nil
	}
	const count = 50
	done := make(chan error, 1)
	go func() {
		for i := range count {
			iova, err := m.region(Region{Addr: guestmem.Ptr(1<<30 + i<<13), FD: -1, Size: 8192}, give)
			if err != nil {
				done <- err
				return
			}
			if i%2 == 0 {
				mu.Lock()
				delete(given, iova)
				mu.Unlock()
				m.vacate(iova, 8192)
			}
		}
		done <- nil
	}()
	for range count {
		if _, err := m.alloc(4096, give); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(given) != count+count/2 {
		t.Errorf("%d pieces are mapped, want %d", len(given), count+count/2)
	}
	if err := m.freeAll(func(uint64, uint64) error { return nil }); err != nil {
		t.Error(err)
	}
}
