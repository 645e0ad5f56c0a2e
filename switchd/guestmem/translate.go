package guestmem

// Hint remembers which region the last translation hit; neighbouring descriptors nearly always lie in the same one. The zero value is
// ready. It belongs to one thread.
type Hint struct{ region int }

// Translate gives the host address of guest-physical address addr and how many of the size bytes from there are contiguous in this
// process (all of them, unless the buffer crosses into a neighbouring region). n is 0 where addr is not in any region or size is 0.
func (m *Memory) Translate(addr, size uint64, hint *Hint) (p Ptr, n uint64) {
	if hint.region < len(m.regions) {
		r := &m.regions[hint.region]
		if offset := addr - r.GuestPhysAddr; offset < r.Size { // an addr below the region wraps to a huge offset
			return r.Host + Ptr(offset), min(size, r.Size-offset)
		}
	}
	r, i := m.find(addr)
	if r == nil {
		return 0, 0
	}
	hint.region = i
	offset := addr - r.GuestPhysAddr
	return r.Host + Ptr(offset), min(size, r.Size-offset)
}

// find gives the region that addr lies in, and its place in the table. A front-end may make many regions and let each descriptor hit
// another one: the search must not take time in proportion.
func (m *Memory) find(addr uint64) (*Region, int) {
	low, high := 0, len(m.regions)
	for low < high {
		middle := int(uint(low+high) / 2)
		r := &m.regions[middle]
		switch {
		case addr-r.GuestPhysAddr < r.Size:
			return r, middle
		case addr < r.GuestPhysAddr:
			high = middle
		default:
			low = middle + 1
		}
	}
	return nil, 0
}

// Window is one region as far as translating addresses in it goes: a copy that needs no look at the table. The zero value holds nothing.
type Window struct {
	guest, size uint64
	host        Ptr
}

// Window gives the region that guest-physical address addr lies in.
func (m *Memory) Window(addr uint64) (Window, bool) {
	r, _ := m.find(addr)
	if r == nil {
		return Window{}, false
	}
	return Window{r.GuestPhysAddr, r.Size, r.Host}, true
}

// Holds tells whether size bytes at addr lie in the region.
func (w *Window) Holds(addr, size uint64) bool {
	offset := addr - w.guest // an addr below the region wraps to a huge offset
	return offset < w.size && size <= w.size-offset
}

// At is the host address of addr, which the window must hold.
func (w *Window) At(addr uint64) Ptr { return w.host + Ptr(addr-w.guest) }

// User gives the host address of the front-end's own virtual address addr, as used for ring addresses (vhost-user SET_VRING_ADDR), if all
// size bytes lie in one region.
func (m *Memory) User(addr, size uint64) (Ptr, bool) {
	for i := range m.regions {
		r := &m.regions[i]
		if offset := addr - r.UserAddr; offset < r.Size && size <= r.Size-offset {
			return r.Host + Ptr(offset), true
		}
	}
	return 0, false
}

// FindUser gives the region that the front-end's address addr lies in, and its offset in the region's file.
func (m *Memory) FindUser(addr uint64) (Region, uint64, bool) {
	for _, r := range m.regions {
		if offset := addr - r.UserAddr; offset < r.Size {
			return r, r.MmapOffset + offset, true
		}
	}
	return Region{}, 0, false
}

// Contains tells whether the host address p lies in this memory's mappings: whose fault a fault is.
func (m *Memory) Contains(p Ptr) bool {
	for i := range m.regions {
		base := AddressOf(m.regions[i].mapping.data)
		if p >= base && p-base < Ptr(len(m.regions[i].mapping.data)) {
			return true
		}
	}
	return false
}
