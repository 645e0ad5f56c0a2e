package ixgbe

import (
	"fmt"
	"os"
	"slices"
	"sort"

	"github.com/hashicorp/go-multierror"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
)

// A frame that the NIC reads in place has its Ethernet header in a buffer of ours, as every frame, so that its sender cannot change what was
// checked; the payload stays where the sender has it, and the NIC reads it there. The sender gets its buffer back when the NIC has reported
// the frame as sent.

const (
	// inPlaceFrom is the shortest payload in bytes that is read in place: copying less costs no more than a second descriptor does.
	inPlaceFrom = 256
	// maxPieces is how many pieces of memory such a frame may have. One in more is copied.
	maxPieces = 8
)

// mappedMemory is a guest's memory as the NIC sees it.
type mappedMemory struct {
	regions []mappedRegion // by host address
	mapped  []mappedArea
}

type mappedRegion struct {
	host guestmem.Ptr
	size uint64
	iova uint64 // of host
}

type mappedArea struct{ iova, size uint64 }

// find gives the NIC's address of a segment, 0 if it is not mapped as a whole.
func (l *mappedMemory) find(s *guestmem.Segment) uint64 {
	i := sort.Search(len(l.regions), func(i int) bool { return l.regions[i].host > s.Addr }) - 1
	if i < 0 {
		return 0
	}
	r := &l.regions[i]
	offset := uint64(s.Addr - r.host)
	if offset >= r.size || uint64(s.Len) > r.size-offset {
		return 0
	}
	return r.iova + offset
}

// MapDMA maps a guest's memory for the NIC's reading. See uplink.DMAMapper.
//
// The kernel pins the memory, which takes seconds where there is much of it, so the NIC's other users are not kept waiting meanwhile.
func (n *NIC) MapDMA(port uplink.Pool, m *guestmem.Memory) error {
	n.mapping.Lock()
	defer n.mapping.Unlock()
	if n.isClosed() { // Close takes mapping, too: it stays so
		return uplink.ErrNoDevice
	}
	if n.mappedFor(port) != nil {
		return fmt.Errorf("map the memory of port %d for %s: it has other memory mapped", port, n.Name())
	}
	l := &mappedMemory{}
	page := guestmem.Ptr(os.Getpagesize() - 1)
	for _, r := range m.Regions() {
		first := r.Host &^ page
		size := uint64((r.Host+guestmem.Ptr(r.Size)+page)&^page - first)
		iova, err := n.dev.MapRegion(pci.Region{Addr: first, FD: -1, Size: size})
		if err != nil {
			err = fmt.Errorf("map the memory of port %d for %s (%s): %w", port, n.Name(), n.dev.Access(), err)
			return multierror.Append(err, n.unmap(l)).ErrorOrNil()
		}
		l.mapped = append(l.mapped, mappedArea{iova, size})
		l.regions = append(l.regions, mappedRegion{r.Host, r.Size, iova + uint64(r.Host-first)})
	}
	sort.Slice(l.regions, func(i, j int) bool { return l.regions[i].host < l.regions[j].host })
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setMapped(port, l)
	return nil
}

// UnmapDMA takes a guest's memory from the NIC. See uplink.DMAMapper.
func (n *NIC) UnmapDMA(port uplink.Pool, drained bool) error {
	n.mapping.Lock()
	defer n.mapping.Unlock()
	l := n.mappedFor(port)
	if l == nil || n.isClosed() {
		return nil
	}
	if !n.letGo(port, l, drained) {
		return nil
	}
	return n.unmap(l)
}

// letGo makes sure that the NIC reads nothing of a port's memory any more, and tells whether that is so now.
func (n *NIC) letGo(port uplink.Pool, l *mappedMemory, drained bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setMapped(port, nil)
	if !drained {
		n.recover(fmt.Sprintf("it has not sent the frames of port %d, which leaves", port))
	}
	if n.state == stray {
		n.stale = append(n.stale, l) // nobody knows what the NIC still reads
		return false
	}
	return true
}

func (n *NIC) mappedFor(port uplink.Pool) *mappedMemory {
	if list := *n.mapped.Load(); port >= 0 && int(port) < len(list) {
		return list[port]
	}
	return nil
}

// setMapped replaces the table that the workers look at. The caller holds mu.
func (n *NIC) setMapped(port uplink.Pool, l *mappedMemory) {
	next := slices.Clone(*n.mapped.Load())
	for len(next) <= int(port) {
		next = append(next, nil)
	}
	next[port] = l
	n.mapped.Store(&next)
}

func (n *NIC) unmap(l *mappedMemory) error {
	all := &multierror.Error{}
	for _, a := range l.mapped {
		all = multierror.Append(all, n.dev.UnmapRegion(a.iova, a.size))
	}
	return all.ErrorOrNil()
}

// unmapStale takes memory back whose guests have left while the NIC did not come back. Now it has. If a guest's memory is just being mapped,
// the next look does it.
func (n *NIC) unmapStale() {
	if !n.mapping.TryLock() {
		return
	}
	defer n.mapping.Unlock()
	for _, l := range n.takeStale() {
		if err := n.unmap(l); err != nil {
			n.log.Warn("unmapping a guest's memory from the NIC", "error", err)
		}
	}
}

func (n *NIC) takeStale() (list []*mappedMemory) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state != stray {
		list, n.stale = n.stale, nil
	}
	return list
}

// owes tells whether the NIC still has frames of guests to read.
func (n *NIC) owes() bool {
	for _, t := range n.txRings() {
		t.own()
		t.reclaim()
		owes := t.inFlight
		t.disown()
		if owes {
			return true
		}
	}
	return false
}

// putInPlace puts one frame into the ring with its payload where it is; false if it has to be copied. There is room for it.
func (t *txRing) putInPlace(f *uplink.TxFrame, from *mappedMemory) bool {
	vlan, tagged := insertable(f)
	length := f.Len
	if tagged {
		length -= ether.TagLen
	}
	if f.Offload.Flags != 0 || len(f.Segs) == 0 || len(f.Segs) > maxPieces || f.Len-int(f.HeaderLen) < inPlaceFrom || length > t.longest {
		return false
	}
	var where [maxPieces]uint64
	for i := range f.Segs {
		if where[i&(maxPieces-1)] = from.find(&f.Segs[i]); where[i&(maxPieces-1)] == 0 {
			return false
		}
	}
	slot, position := t.prepare(vlan)
	options := frameOptions(length, tagged)
	t.place(position, t.iova[slot], int(putHeader(t.addr[slot], f, tagged)), options)
	for i := range f.Segs {
		position++
		t.place(position, where[i&(maxPieces-1)], int(f.Segs[i].Len), options)
	}
	t.end(position)
	return true
}

// Done tells whether the NIC has sent everything up to a position. See uplink.Ring.
func (t *txRing) Done(until uint32) bool {
	if int32(t.done.Load()-until) >= 0 {
		return true
	}
	if !t.owned.CompareAndSwap(0, 1) {
		return false
	}
	t.reclaim()
	t.disown()
	return int32(t.done.Load()-until) >= 0
}
