package virtio

import "vhostkit/switchd/guestmem"

// View is a chain as nearly all are: one direct descriptor whose buffer lies in one region.
type View struct {
	Addr guestmem.Ptr
	Len  uint32 // bytes in the buffer; before CompleteViews of a receive queue, bytes written
	ID   uint16 // split: descriptor; packed: buffer id
}

// ViewSize is the distance between two views in memory, in bytes.
const ViewSize = 16

// Views holds fetched views. It belongs to one thread and is reused.
type Views [BurstSize]View

// FetchViews describes the chains that the driver has made available, from the queue's position on, as long as they are simple: as many as v
// has room for, and none past the first that is not simple, or that breaks the rules. more tells that the next one is such a chain: Fetch deals
// with it. Nothing is consumed before CompleteViews.
func (q *Queue) FetchViews(v []View) (n int, more bool) {
	if q.packed {
		return q.viewPacked(v)
	}
	return q.viewSplit(v)
}

func (q *Queue) viewSplit(v []View) (int, bool) {
	waiting := uint32(q.availIndex() - q.avail)
	if waiting > q.size-q.unreturned {
		return 0, true
	}
	v = v[:min(int(waiting), len(v))]
	mask, ring, desc, size := q.size-1, q.driver+ringEntries, q.desc, q.size
	pos, flags := uint32(q.avail), uint64(q.write)
	w := q.window
	for i := range v {
		head := uint32((ring + guestmem.Ptr(pos&mask)*availEntrySize).LoadU16())
		if head >= size {
			return i, true
		}
		pos++
		d := desc + guestmem.Ptr(head)*descSize
		addr, word := d.LoadU64(), (d + 8).LoadU64()
		length := uint64(uint32(word))
		if !w.Holds(addr, length) {
			if w = q.moveWindow(addr); !w.Holds(addr, length) {
				return i, true
			}
		}
		if word>>32&0xffff != flags || length == 0 {
			return i, true
		}
		v[i] = View{Addr: w.At(addr), Len: uint32(length), ID: uint16(head)}
	}
	return len(v), false
}

func (q *Queue) viewPacked(v []View) (int, bool) {
	// With fewer slots than views two rounds could be seen at once; a driver that is honest never has more than the ring's.
	v = v[:min(len(v), int(q.size-q.unreturned))]
	const direct = descNext | descWrite | descIndirect
	pos, wrap, size := uint32(q.avail), q.availWrap, q.size
	expected := packedExpected(wrap)
	w := q.window
	for i := range v {
		d := q.desc + guestmem.Ptr(pos)*descSize
		word := (d + 8).LoadAcquireU64()
		flags := uint16(word >> 48)
		if flags&(packedAvail|packedUsed) != expected {
			return i, false
		}
		addr, length, id := d.LoadU64(), uint64(uint32(word)), uint16(word>>32)
		if !w.Holds(addr, length) {
			if w = q.moveWindow(addr); !w.Holds(addr, length) {
				return i, true
			}
		}
		if flags&direct != q.write || length == 0 || uint32(id) >= size {
			return i, true
		}
		v[i] = View{Addr: w.At(addr), Len: uint32(length), ID: id}
		if pos++; pos == size {
			pos, wrap = 0, !wrap
			expected = packedExpected(wrap)
		}
	}
	return len(v), false
}

// packedExpected is what the AVAIL and USED flags of a descriptor that belongs to the device are at a wrap counter.
func packedExpected(wrap bool) uint16 {
	if wrap {
		return packedAvail
	}
	return packedUsed
}

// moveWindow takes the region that holds addr as the one where the next buffers are expected.
func (q *Queue) moveWindow(addr uint64) guestmem.Window {
	if w, ok := q.memory.Window(addr); ok {
		q.window = w
	}
	return q.window
}

// CompleteViews returns the views to the driver, the first ones that were fetched, and makes that visible at once. A receive queue's views carry
// the bytes written in Len; nothing is written into a transmit queue's.
func (q *Queue) CompleteViews(v []View) {
	if len(v) == 0 {
		return
	}
	q.completed += uint64(len(v))
	if q.packed {
		q.completeViewsPacked(v)
		return
	}
	mask, ring, used := q.size-1, q.device+ringEntries, uint32(q.used)
	lengths := ^uint64(0)
	if q.write == 0 {
		lengths = 0xffffffff // id alone
	}
	for i := range v {
		e := &v[i]
		(ring + guestmem.Ptr(used&mask)*usedEntrySize).StoreU64((uint64(e.ID) | uint64(e.Len)<<32) & lengths)
		used++
	}
	q.used = uint16(used)
	q.avail += uint16(len(v))
	q.returned += uint32(len(v))
	q.publishUsedIndex()
}

func (q *Queue) completeViewsPacked(v []View) {
	pos, wrap, size := uint32(q.used), q.usedWrap, q.size
	head, headWrap := pos, wrap
	for i := range v {
		e := &v[i]
		word := uint64(e.ID) << 32
		if q.write != 0 && e.Len != 0 {
			word |= uint64(e.Len) | descWrite<<48
		}
		if wrap {
			word |= (packedAvail | packedUsed) << 48
		}
		head, headWrap = pos, wrap
		(q.desc + guestmem.Ptr(pos)*descSize + 8).StoreReleaseU64(word)
		if pos++; pos == size {
			pos, wrap = 0, !wrap
		}
	}
	q.used, q.usedWrap = uint16(pos), wrap
	q.avail, q.availWrap = q.used, wrap
	q.returned += uint32(len(v))
	if q.journal != 0 {
		q.writeJournal(uint16(head), headWrap, v[len(v)-1].ID)
	}
}
