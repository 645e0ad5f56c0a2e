package virtio

import (
	"fmt"

	"vhostkit/switchd/guestmem"
)

// Layout of the split ring's areas (virtio 1.2, 2.7.6 and 2.7.8).
const (
	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY
	ringEntries      = 4 // both rings: flags and idx come first
	availEntrySize   = 2
	usedEntrySize    = 8
)

// locateAvailIndex finds the aligned 32-bit word that holds the avail index, because there are no 16-bit atomic loads and the area needs
// only be aligned to 2: the word is flags+idx, or idx and the first entry.
func (q *Queue) locateAvailIndex() {
	if q.driver%4 == 0 {
		q.availWord, q.availShift = q.driver, 16
	} else {
		q.availWord, q.availShift = q.driver+2, 0
	}
}

func (q *Queue) availIndex() uint16 { return uint16(q.availWord.LoadAcquireU32() >> q.availShift) }

func (q *Queue) fetchSplit(b *Burst, limit int) (int, error) {
	idx := q.availIndex()
	if uint32(idx-q.avail) > q.size-q.unreturned {
		return b.N, fmt.Errorf("%w: avail index %d is more than %d ahead of %d", ErrRing, idx, q.size, q.used)
	}
	waiting := int(idx-q.avail) - int(b.next-q.avail)
	if waiting < 0 {
		return b.N, fmt.Errorf("%w: avail index %d went back behind buffer %d, which was fetched already", ErrRing, idx, b.next)
	}
	mask := q.size - 1
	for ; b.N < limit && waiting > 0 && b.walked < maxWalk; waiting-- {
		head := uint32((q.driver + ringEntries + guestmem.Ptr(uint32(b.next)&mask)*availEntrySize).LoadU16())
		if head >= q.size {
			return b.N, fmt.Errorf("%w: avail ring names descriptor %d of %d", ErrRing, head, q.size)
		}
		d := q.desc + guestmem.Ptr(head)*descSize
		addr, word := d.LoadU64(), (d + 8).LoadU64()
		c := b.begin(uint16(head))
		size := uint32(word)
		p, n := q.memory.Translate(addr, uint64(size), &q.hint)
		if uint16(word>>32) == q.write && n == uint64(size) && n != 0 && b.segments < maxSegments {
			// The usual case: one descriptor, in one region.
			b.Segments[b.segments] = guestmem.Segment{Addr: p, Len: size}
			b.segments++
			b.walked++
			c.Count, c.Len = 1, n
		} else if err := q.walkSplit(b, c, addr, word); err != nil {
			return b.N, err
		}
		if c.Cut && b.N > 0 { // give it a burst of its own
			b.segments = int(c.First)
			break
		}
		b.next++
		b.N++
	}
	return b.N, nil
}

// walkSplit follows a chain whose first descriptor has been read. Descriptors may be followed by one indirect descriptor (2.7.5.3.2).
func (q *Queue) walkSplit(b *Burst, c *Chain, addr, word uint64) error {
	table, entries, inTable := q.desc, int(q.size), false
	for steps := 1; ; steps++ {
		if steps > q.maxChain {
			return q.tooLong(c.ID)
		}
		b.walked++
		size, flags, next := uint32(word), uint16(word>>32), int(word>>48)
		if flags&descIndirect != 0 {
			if inTable || flags&descNext != 0 {
				return fmt.Errorf("%w: chain %d: an indirect descriptor inside an indirect table or with a next one", ErrRing, c.ID)
			}
			var err error
			if table, entries, err = q.indirectTable(c.ID, addr, size); err != nil {
				return err
			}
			inTable, next = true, 0
			steps-- // it holds no buffer itself: drivers fill tables up to what a chain may have
		} else {
			if err := q.addBuffer(b, c, addr, size, flags); err != nil {
				return err
			}
			if flags&descNext == 0 {
				return nil
			}
		}
		if next >= entries {
			return fmt.Errorf("%w: chain %d goes on at descriptor %d of %d", ErrRing, c.ID, next, entries)
		}
		d := table + guestmem.Ptr(next)*descSize
		addr, word = d.LoadU64(), (d + 8).LoadU64()
	}
}

func (q *Queue) completeSplit(b *Burst, n int) {
	mask := q.size - 1
	ring := q.device + ringEntries
	for i := range b.Chains[:n] {
		c := &b.Chains[i]
		// One store for {le32 id; le32 len}; the area is aligned to 4 only, which these hosts allow.
		(ring + guestmem.Ptr(uint32(q.used)&mask)*usedEntrySize).StoreU64(uint64(c.ID) | uint64(c.Written)<<32)
		q.used++
	}
	q.avail += uint16(n)
	q.returned += uint32(n)
	q.publishUsedIndex()
}

// publishUsedIndex stores used.idx after the entries. The flags beside it are ours, so both go in one aligned word. With event index they
// stay 0 (2.7.10).
func (q *Queue) publishUsedIndex() {
	flags := uint32(0)
	if q.noKick && !q.eventIdx {
		flags = usedNoNotify
	}
	q.device.StoreReleaseU32(flags | uint32(q.used)<<16)
}

// usedEvent is where the driver says at which used index it wants to be called (2.7.7).
func (q *Queue) usedEvent() uint16 {
	return (q.driver + ringEntries + guestmem.Ptr(q.size)*availEntrySize).LoadU16()
}

// setAvailEvent says at which avail index we want to be kicked (2.7.9).
func (q *Queue) setAvailEvent(v uint16) {
	(q.device + ringEntries + guestmem.Ptr(q.size)*usedEntrySize).StoreU16(v)
}
