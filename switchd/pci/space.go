package pci

import (
	"fmt"
	"slices"
)

// space gives out addresses for memory of others, below our own and above what a device may see at fixed places (interrupts lie below 4 GiB).
type space struct {
	taken []stretch // by address, without overlap
}

type stretch struct{ iova, size uint64 }

// firstRegion is where memory of others begins.
const firstRegion = 1 << 32

// take finds the first gap for size bytes before end, in step with the address in this process: with large pages on both sides the IOMMU can
// use them, too.
func (s *space) take(host, size, end uint64) (uint64, error) {
	step := uint64(4096)
	for _, large := range []uint64{hugepage, 1 << 30} {
		if size >= large {
			step = large
		}
	}
	at := inStep(firstRegion, host, step)
	for i := 0; ; i++ {
		if at+size > end || at+size < at {
			return 0, fmt.Errorf("%w: no addresses are left for %d bytes below %#x", ErrUnsupported, size, end)
		}
		if i == len(s.taken) || at+size <= s.taken[i].iova {
			s.taken = slices.Insert(s.taken, i, stretch{at, size})
			return at, nil
		}
		at = max(at, inStep(s.taken[i].iova+s.taken[i].size, host, step))
	}
}

// inStep is the first address from at on that has the same place in a step as host.
func inStep(at, host, step uint64) uint64 { return at + (host-at)&(step-1) }

// give takes a stretch back.
func (s *space) give(iova, size uint64) {
	s.taken = slices.DeleteFunc(s.taken, func(t stretch) bool { return t == stretch{iova, size} })
}
