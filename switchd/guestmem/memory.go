package guestmem

import (
	"errors"
	"fmt"
	"math"
	"sort"
	"sync/atomic"

	"vhostkit/switchd/budget"
)

// MaxRegions bounds a memory table. QEMU uses at most 512 memory slots; the kernel's vhost allows 509.
const MaxRegions = 512

// ErrRegion is wrapped by every error about a region that a front-end described wrongly.
var ErrRegion = errors.New("bad memory region")

// RegionSpec is a region as the front-end describes it (vhost-user "memory region description"). All values come from the front-end.
type RegionSpec struct {
	GuestPhysAddr uint64 // first guest-physical address; for virtio-user it equals UserAddr
	Size          uint64 // bytes
	UserAddr      uint64 // where the front-end itself has mapped the region
	MmapOffset    uint64 // bytes into the file
	FD            int    // the file; Map does not take it over, the caller closes it
}

// Region is a mapped region.
type Region struct {
	GuestPhysAddr uint64
	Size          uint64
	UserAddr      uint64
	MmapOffset    uint64
	Host          Ptr    // where it is mapped here
	Device, Inode uint64 // the file's identity: stays the same when a front-end connects again with the same memory
	Birth         uint64 // ns; tells the file from a later one with the same Inode; 0: unknown
	mapping       *mapping
}

// mapping is one mmap, shared by every Memory that contains its region.
type mapping struct {
	data      []byte
	guest     uint64          // bytes of guest memory in it
	account   *budget.Account // that has it counted
	residency residency       // how to populate it
	refs      atomic.Int32
}

// Memory is an immutable set of mapped regions. Changes make a new Memory (With, Without) that shares the mappings; each is closed on its
// own, and a region is unmapped when the last Memory that has it is closed.
type Memory struct {
	mapper  Mapper
	regions []Region // ordered by GuestPhysAddr, without overlap
}

// Map is Mapper.Map without bounds.
func Map(specs []RegionSpec) (*Memory, error) { return Mapper{}.Map(specs) }

// Map maps the regions and checks that they are well formed: not empty, no wrap-around, no overlap, the file long enough and of a kind whose
// pages nobody can withhold. On error nothing stays mapped: it wraps ErrRegion or is a *budget.ExceededError. The descriptors remain the
// caller's.
func (mp Mapper) Map(specs []RegionSpec) (*Memory, error) {
	m := &Memory{mapper: mp}
	for _, spec := range specs {
		next, err := m.With(spec)
		m.Close()
		if err != nil {
			return nil, err
		}
		m = next
	}
	return m, nil
}

// With returns a Memory with one region more (vhost-user ADD_MEM_REG). m stays valid and open.
func (m *Memory) With(spec RegionSpec) (*Memory, error) {
	if err := m.check(spec); err != nil {
		return nil, err
	}
	region, err := m.mapper.region(spec)
	if err != nil {
		return nil, err
	}
	next := m.share()
	next.regions = append(next.regions, region)
	sort.Slice(next.regions, func(i, j int) bool { return next.regions[i].GuestPhysAddr < next.regions[j].GuestPhysAddr })
	return next, nil
}

// Without returns a Memory that lacks the region with that address, size and user address (vhost-user REM_MEM_REG). m stays valid.
func (m *Memory) Without(guestPhysAddr, userAddr, size uint64) (*Memory, error) {
	for i, r := range m.regions {
		if r.GuestPhysAddr == guestPhysAddr && r.UserAddr == userAddr && r.Size == size {
			next := m.share()
			next.regions[i].mapping.release()
			next.regions = append(next.regions[:i], next.regions[i+1:]...)
			return next, nil
		}
	}
	return nil, fmt.Errorf("%w: no region of %d bytes at guest address %#x, user address %#x", ErrRegion, size, guestPhysAddr, userAddr)
}

// Close gives up this Memory's hold on its regions. No Ptr that it gave out may be used afterwards.
func (m *Memory) Close() {
	for _, r := range m.regions {
		r.mapping.release()
	}
	m.regions = nil
}

// Regions lists the regions by guest-physical address. The slice is a copy.
func (m *Memory) Regions() []Region { return append([]Region(nil), m.regions...) }

// share copies the table and takes another hold on each mapping.
func (m *Memory) share() *Memory {
	next := &Memory{mapper: m.mapper, regions: make([]Region, len(m.regions), len(m.regions)+1)}
	copy(next.regions, m.regions)
	for _, r := range m.regions {
		r.mapping.refs.Add(1)
	}
	return next
}

func (m *Memory) check(s RegionSpec) error {
	switch {
	case s.Size == 0:
		return fmt.Errorf("%w: size 0 at guest address %#x", ErrRegion, s.GuestPhysAddr)
	case s.Size > math.MaxInt64/2 || s.MmapOffset > math.MaxInt64/2:
		return fmt.Errorf("%w: size %#x, offset %#x: too large", ErrRegion, s.Size, s.MmapOffset)
	case s.GuestPhysAddr+s.Size < s.GuestPhysAddr:
		return fmt.Errorf("%w: guest address %#x + size %#x wraps around", ErrRegion, s.GuestPhysAddr, s.Size)
	case s.UserAddr+s.Size < s.UserAddr:
		return fmt.Errorf("%w: user address %#x + size %#x wraps around", ErrRegion, s.UserAddr, s.Size)
	case len(m.regions) >= MaxRegions:
		return fmt.Errorf("%w: more than %d regions", ErrRegion, MaxRegions)
	}
	for _, r := range m.regions {
		if overlap(r.GuestPhysAddr, r.Size, s.GuestPhysAddr, s.Size) {
			return fmt.Errorf("%w: guest addresses %#x+%#x overlap %#x+%#x", ErrRegion,
				s.GuestPhysAddr, s.Size, r.GuestPhysAddr, r.Size)
		}
		if overlap(r.UserAddr, r.Size, s.UserAddr, s.Size) {
			return fmt.Errorf("%w: user addresses %#x+%#x overlap %#x+%#x", ErrRegion, s.UserAddr, s.Size, r.UserAddr, r.Size)
		}
	}
	return nil
}

// Has tells whether a description is of a region that is mapped already, of the same file.
func (m *Memory) Has(s RegionSpec) (bool, error) {
	for _, r := range m.regions {
		if r.GuestPhysAddr != s.GuestPhysAddr || r.Size != s.Size || r.UserAddr != s.UserAddr || r.MmapOffset != s.MmapOffset {
			continue
		}
		st, err := m.mapper.Files.Stat(s.FD)
		if err != nil {
			return false, fmt.Errorf("%w: fstat of the memory's descriptor: %w", ErrRegion, err)
		}
		return st.Dev == r.Device && st.Ino == r.Inode, nil
	}
	return false, nil
}

func overlap(a, an, b, bn uint64) bool { return a < b+bn && b < a+an }
