package virtio

import (
	"fmt"

	"vhostkit/switchd/guestmem"
)

// Packed ring flags (virtio 1.2, 2.8.1 and 2.8.10).
const (
	packedAvail = 1 << 7  // VIRTQ_DESC_F_AVAIL
	packedUsed  = 1 << 15 // VIRTQ_DESC_F_USED

	ringEventEnable  = 0 // RING_EVENT_FLAGS_ENABLE
	ringEventDisable = 1 // RING_EVENT_FLAGS_DISABLE
	ringEventDesc    = 2 // RING_EVENT_FLAGS_DESC
)

// isAvailable tells whether a descriptor with these flags belongs to the device at the given wrap counter.
func isAvailable(flags uint16, wrap bool) bool {
	return (flags&packedAvail != 0) == wrap && (flags&packedUsed != 0) != wrap
}

// load reads the second half of a descriptor, {le32 len; le16 id; le16 flags}, with one acquiring load: what the flags announce is seen
// together with them.
func (q *Queue) loadPacked(pos uint16) uint64 {
	return (q.desc + guestmem.Ptr(pos)*descSize + 8).LoadAcquireU64()
}

func (q *Queue) fetchPacked(b *Burst, limit int) (int, error) {
	for b.N < limit && b.walked < maxWalk {
		word := q.loadPacked(b.next)
		flags := uint16(word >> 48)
		if !isAvailable(flags, b.wrap) {
			break
		}
		id := uint16(word >> 32)
		addr := (q.desc + guestmem.Ptr(b.next)*descSize).LoadU64()
		c := b.begin(id)
		size := uint32(word)
		p, n := q.memory.Translate(addr, uint64(size), &q.hint)
		pos, wrap := b.next, b.wrap
		if flags&(descNext|descWrite|descIndirect) == q.write && n == uint64(size) && n != 0 && b.segments < maxSegments {
			b.Segments[b.segments] = guestmem.Segment{Addr: p, Len: size}
			b.segments++
			b.walked++
			c.Count, c.Len, c.count = 1, n, 1
			pos, wrap = q.after(pos, wrap, 1)
		} else {
			var err error
			if pos, wrap, err = q.walkPacked(b, c, addr, word); err != nil {
				return b.N, err
			}
		}
		if uint32(c.ID) >= q.size {
			return b.N, fmt.Errorf("%w: buffer id %d in a ring of %d", ErrRing, c.ID, q.size)
		}
		if q.outstanding(b)+uint32(c.count) > q.size-q.unreturned {
			return b.N, fmt.Errorf("%w: more descriptors available than the ring has", ErrRing)
		}
		if c.Cut && b.N > 0 {
			b.segments = int(c.First)
			break
		}
		b.next, b.wrap = pos, wrap
		b.N++
	}
	return b.N, nil
}

// outstanding counts the slots between the queue's position and the end of the fetched chains.
func (q *Queue) outstanding(b *Burst) uint32 {
	d := uint32(b.next) - uint32(q.avail)
	if b.wrap != q.availWrap {
		d += q.size
	}
	return d
}

// after moves a ring position by n slots.
func (q *Queue) after(pos uint16, wrap bool, n uint16) (uint16, bool) {
	next := uint32(pos) + uint32(n)
	if next >= q.size {
		return uint16(next - q.size), !wrap
	}
	return uint16(next), wrap
}

// walkPacked follows a chain whose first descriptor has been read: the next slots of the ring, or an indirect table that is used from
// front to back (2.8.5, 2.8.7). The buffer id is the last descriptor's.
func (q *Queue) walkPacked(b *Burst, c *Chain, addr, word uint64) (pos uint16, wrap bool, err error) {
	pos, wrap = b.next, b.wrap
	for {
		if c.count++; uint32(c.count) > q.size {
			return 0, false, fmt.Errorf("%w: a chain of more than %d descriptors", ErrRing, q.size)
		}
		if int(c.count) > q.maxChain && uint16(word>>48)&descIndirect == 0 {
			return 0, false, q.tooLong(c.ID)
		}
		b.walked++
		pos, wrap = q.after(pos, wrap, 1)
		size, flags := uint32(word), uint16(word>>48)
		c.ID = uint16(word >> 32)
		if flags&descIndirect != 0 {
			if flags&descNext != 0 {
				return 0, false, fmt.Errorf("%w: buffer %d: an indirect descriptor with a next one", ErrRing, c.ID)
			}
			return pos, wrap, q.walkPackedTable(b, c, addr, size)
		}
		if err := q.addBuffer(b, c, addr, size, flags); err != nil {
			return 0, false, err
		}
		if flags&descNext == 0 {
			return pos, wrap, nil
		}
		word = q.loadPacked(pos)
		addr = (q.desc + guestmem.Ptr(pos)*descSize).LoadU64()
	}
}

func (q *Queue) walkPackedTable(b *Burst, c *Chain, addr uint64, size uint32) error {
	table, entries, err := q.indirectTable(c.ID, addr, size)
	if err != nil {
		return err
	}
	if int(c.count)-1+entries > q.maxChain { // the indirect descriptor holds no buffer itself
		return q.tooLong(c.ID)
	}
	b.walked += entries
	for i := range entries {
		d := table + guestmem.Ptr(i)*descSize
		addr, word := d.LoadU64(), (d + 8).LoadU64()
		flags := uint16(word >> 48)
		if flags&descIndirect != 0 {
			return fmt.Errorf("%w: buffer %d: an indirect descriptor inside an indirect table", ErrRing, c.ID)
		}
		if err := q.addBuffer(b, c, addr, uint32(word), flags); err != nil {
			return err
		}
	}
	return nil
}

// completePacked writes a used descriptor into the first slot of each chain (2.8.6). Each is one 8-byte store of {len, id, flags}, in ring
// order, so a driver that sees one sees all before it.
func (q *Queue) completePacked(b *Burst, n int) {
	head, headWrap := q.used, q.usedWrap
	for i := range b.Chains[:n] {
		c := &b.Chains[i]
		flags := uint64(q.write)
		if q.write != 0 && c.Written == 0 {
			flags = 0
		}
		if q.usedWrap {
			flags |= packedAvail | packedUsed
		}
		head, headWrap = q.used, q.usedWrap
		(q.desc + guestmem.Ptr(head)*descSize + 8).StoreReleaseU64(uint64(c.Written) | uint64(c.ID)<<32 | flags<<48)
		q.used, q.usedWrap = q.after(q.used, q.usedWrap, c.count)
		q.avail, q.availWrap = q.after(q.avail, q.availWrap, c.count)
		q.returned += uint32(c.count)
	}
	if q.journal != 0 {
		q.writeJournal(head, headWrap, b.Chains[n-1].ID)
	}
}
