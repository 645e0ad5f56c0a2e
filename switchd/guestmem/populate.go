package guestmem

import (
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A worker that touches a page of a guest for the first time faults, and everything else that it serves stands still meanwhile. What is in
// this file maps pages beforehand, from other threads, by madvise(2): in a system call a fault that takes long holds up neither the collector
// nor anybody's locks but the memory map's for reading, and what is gone is an error, not a signal.

// populateAdvice maps pages (Linux 5.14; before, it is refused and the pages stay cold). On amd64 a read fault is enough and takes half the
// time: a page of a shared file is mapped writable, and the processor itself marks it dirty. Elsewhere the first write may fault again.
func populateAdvice() int {
	if runtime.GOARCH == "amd64" {
		return unix.MADV_POPULATE_READ
	}
	return unix.MADV_POPULATE_WRITE
}

// populate maps what is resident in [from, to), offsets in the mapping at page boundaries no further apart than maxScan. It tells whether
// that was everything.
func (mp *mapping) populate(from, to int) (all bool) {
	mapped := 0
	mp.stretches(from, to, func(from, to int) bool {
		if unix.Madvise(mp.data[from:to], populateAdvice()) != nil {
			return false // truncated, or a kernel that cannot
		}
		mapped += to - from
		return true
	})
	return mapped == to-from
}

// Require maps the pages of n bytes at p whether they are resident or not, because they will be touched at once in any case, as a ring is. n is
// small; the range must be one that this Memory gave out. It tells whether they are mapped.
func (m *Memory) Require(p Ptr, n uint64) bool {
	mp, from, to := m.pages(p, n)
	return mp != nil && unix.Madvise(mp.data[from:to], populateAdvice()) == nil
}

// PopulateNow maps what is resident of n bytes at p, at most maxScan. It tells whether that was everything.
func (m *Memory) PopulateNow(p Ptr, n uint64) bool {
	mp, from, to := m.pages(p, min(n, maxScan/2))
	return mp != nil && mp.populate(from, to)
}

// pages finds the mapping of n bytes at p and the whole pages around them; nil if they are not wholly in one.
func (m *Memory) pages(p Ptr, n uint64) (mp *mapping, from, to int) {
	if n == 0 {
		return nil, 0, 0
	}
	page := uint64(os.Getpagesize())
	for i := range m.regions {
		mp := m.regions[i].mapping
		offset, length := uint64(p-AddressOf(mp.data)), uint64(len(mp.data)) // a p below the mapping wraps to a huge offset
		if offset < length && n <= length-offset {
			return mp, int(offset &^ (page - 1)), int((offset + n + page - 1) &^ (page - 1))
		}
	}
	return nil, 0, 0
}

// Ranges collects ranges of a Memory that are to be populated together. It belongs to one goroutine.
type Ranges struct {
	memory *Memory
	list   []pageRange
}

type pageRange struct {
	mapping  *mapping
	from, to int // offsets in the mapping
}

// Ranges makes an empty collection. The Memory must stay open.
func (m *Memory) Ranges() *Ranges { return &Ranges{memory: m} }

// Add adds n bytes at p, of which at most the first 64 KiB count: a buffer may be described as gigabytes long.
func (r *Ranges) Add(p Ptr, n uint64) {
	if mp, from, to := r.memory.pages(p, min(n, maxRange)); mp != nil {
		r.list = append(r.list, pageRange{mp, from, to})
	}
}

const (
	maxRange = 64 << 10
	maxGap   = 64 << 10 // ranges that are no further apart cost less together
)

// Populate maps what is resident of the ranges, and of the gaps between near ones, until the deadline passes.
func (r *Ranges) Populate(deadline time.Time) {
	for _, p := range r.merged() {
		for from := p.from; from < p.to; from += maxScan {
			if time.Now().After(deadline) {
				return
			}
			p.mapping.populate(from, min(p.to, from+maxScan))
		}
	}
}

// merged orders the ranges and joins those that are near each other.
func (r *Ranges) merged() []pageRange {
	slices.SortFunc(r.list, func(a, b pageRange) int {
		if a.mapping != b.mapping {
			return int(AddressOf(a.mapping.data) - AddressOf(b.mapping.data))
		}
		return a.from - b.from
	})
	joined := r.list[:0]
	for _, p := range r.list {
		if n := len(joined); n > 0 && joined[n-1].mapping == p.mapping && p.from <= joined[n-1].to+maxGap {
			joined[n-1].to = max(joined[n-1].to, p.to)
			continue
		}
		joined = append(joined, p)
	}
	return joined
}
