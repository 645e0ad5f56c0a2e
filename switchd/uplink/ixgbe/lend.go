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

// A frame that is lent to the NIC has its Ethernet header in a buffer of ours, as every frame, so that its sender cannot change what was
// checked; the payload stays where the sender has it, and the NIC reads it there. The sender gets its buffer back when the NIC has reported
// the frame as sent.

const (
	// lendFrom is the shortest payload in bytes that is lent: copying less costs no more than a second descriptor does.
	lendFrom = 256
	// maxPieces is how many pieces of memory a lent frame may have. One in more is copied.
	maxPieces = 8
)

// lentMemory is a guest's memory as the NIC sees it.
type lentMemory struct {
	regions []lentRegion // by host address
	mapped  []mappedArea
}

type lentRegion struct {
	host guestmem.Ptr
	size uint64
	iova uint64 // of host
}

type mappedArea struct{ iova, size uint64 }

// find gives the NIC's address of a segment, 0 if it is not lent as a whole.
func (l *lentMemory) find(s *guestmem.Segment) uint64 {
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

// Lend maps a guest's memory for the NIC's reading. See uplink.Lender.
//
// The kernel pins the memory, which takes seconds where there is much of it, so the NIC's other users are not kept waiting meanwhile.
func (n *NIC) Lend(port int, m *guestmem.Memory) error {
	n.lending.Lock()
	defer n.lending.Unlock()
	if n.isClosed() { // Close takes lending, too: it stays so
		return uplink.ErrNoDevice
	}
	if n.lentBy(port) != nil {
		return fmt.Errorf("lend the memory of port %d to %s: it has lent other memory", port, n.Name())
	}
	l := &lentMemory{}
	page := guestmem.Ptr(os.Getpagesize() - 1)
	for _, r := range m.Regions() {
		first := r.Host &^ page
		size := uint64((r.Host+guestmem.Ptr(r.Size)+page)&^page - first)
		iova, err := n.dev.MapRegion(pci.Region{Addr: first, FD: -1, Size: size})
		if err != nil {
			err = fmt.Errorf("lend the memory of port %d to %s (%s): %w", port, n.Name(), n.dev.Access(), err)
			return multierror.Append(err, n.unmap(l)).ErrorOrNil()
		}
		l.mapped = append(l.mapped, mappedArea{iova, size})
		l.regions = append(l.regions, lentRegion{r.Host, r.Size, iova + uint64(r.Host-first)})
	}
	sort.Slice(l.regions, func(i, j int) bool { return l.regions[i].host < l.regions[j].host })
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setLent(port, l)
	return nil
}

// TakeBack takes a guest's memory from the NIC. See uplink.Lender.
func (n *NIC) TakeBack(port int, drained bool) error {
	n.lending.Lock()
	defer n.lending.Unlock()
	l := n.lentBy(port)
	if l == nil || n.isClosed() {
		return nil
	}
	if !n.letGo(port, l, drained) {
		return nil
	}
	return n.unmap(l)
}

// letGo makes sure that the NIC reads nothing of a port's memory any more, and tells whether that is so now.
func (n *NIC) letGo(port int, l *lentMemory, drained bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setLent(port, nil)
	if !drained {
		n.recover(fmt.Sprintf("it has not sent the frames of port %d, which leaves", port))
	}
	if n.state == stray {
		n.stale = append(n.stale, l) // nobody knows what the NIC still reads
		return false
	}
	return true
}

func (n *NIC) lentBy(port int) *lentMemory {
	if list := *n.lent.Load(); port >= 0 && port < len(list) {
		return list[port]
	}
	return nil
}

// setLent replaces the table that the workers look at. The caller holds mu.
func (n *NIC) setLent(port int, l *lentMemory) {
	next := slices.Clone(*n.lent.Load())
	for len(next) <= port {
		next = append(next, nil)
	}
	next[port] = l
	n.lent.Store(&next)
}

func (n *NIC) unmap(l *lentMemory) error {
	all := &multierror.Error{}
	for _, a := range l.mapped {
		all = multierror.Append(all, n.dev.UnmapRegion(a.iova, a.size))
	}
	return all.ErrorOrNil()
}

// unmapStale takes memory back whose guests have left while the NIC did not come back. Now it has. If a guest's memory is just being mapped,
// the next look does it.
func (n *NIC) unmapStale() {
	if !n.lending.TryLock() {
		return
	}
	defer n.lending.Unlock()
	for _, l := range n.takeStale() {
		if err := n.unmap(l); err != nil {
			n.log.Warn("taking a guest's memory from the NIC", "error", err)
		}
	}
}

func (n *NIC) takeStale() (list []*lentMemory) {
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
		owes := t.lending
		t.disown()
		if owes {
			return true
		}
	}
	return false
}

// lend puts one frame into the ring with its payload where it is; false if it has to be copied. There is room for it.
func (t *txRing) lend(f *uplink.TxFrame, from *lentMemory) bool {
	vlan, tagged := insertable(f)
	length := f.Len
	if tagged {
		length -= ether.TagLen
	}
	if f.Offload.Flags != 0 || len(f.Segs) == 0 || len(f.Segs) > maxPieces || f.Len-int(f.HeaderLen) < lendFrom || length > t.longest {
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

// Done tells whether the NIC has sent everything up to a position. See uplink.Borrower.
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
