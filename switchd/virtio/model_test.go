package virtio

import (
	"math/rand/v2"
	"slices"
)

const maxPieces = 6

type piece struct {
	addr uint64
	n    int
}

// buffer is what a model driver offered.
type buffer struct {
	id     uint16 // split: head descriptor
	pieces []piece
	own    []uint16 // split: descriptors it holds
	slots  int      // packed: slots of the ring it holds
}

func (b *buffer) len() (n int) {
	for _, p := range b.pieces {
		n += p.n
	}
	return n
}

// returnedBuffer is one that came back.
type returnedBuffer struct {
	buffer *buffer
	length uint32
}

// spot is a place in a ring: the free-running index of a split ring (wrap false), slot and wrap counter of a packed one.
type spot struct {
	at   uint16
	wrap bool
}

// model is a driver as virtio 1.2 describes it, built for clarity: descriptors are taken at random, chains have any shape.
type model struct {
	*world
	rnd                              *rand.Rand
	size                             int
	packed, receive, event, indirect bool
	offers, seen                     spot // next to make available, next to be used
	free                             []uint16
	room                             int // free slots of a packed ring
	held                             map[uint16]*buffer
	published                        []spot // since kickDue was last asked
}

func newModel(w *world, rnd *rand.Rand, size int, f Features, receive bool, s State) *model {
	m := &model{
		world: w, rnd: rnd, size: size, packed: f.Has(VIRTIO_F_RING_PACKED), receive: receive, event: f.Has(VIRTIO_F_EVENT_IDX),
		indirect: f.Has(VIRTIO_F_INDIRECT_DESC), room: size, held: map[uint16]*buffer{},
	}
	for _, i := range rnd.Perm(size) {
		m.free = append(m.free, uint16(i))
	}
	m.offers = spot{s.Avail, s.AvailWrap}
	m.seen = m.offers
	if !m.packed {
		store32(w.file, driverOff, uint32(s.Avail)<<16)
		store32(w.file, deviceOff, uint32(s.Avail)<<16)
	} else {
		for i := range size { // all used: those before the position in this round, the others in the one before
			flags := uint16(0)
			if (i < int(s.Avail)) == s.AvailWrap {
				flags = 1<<7 | 1<<15
			}
			m.put(descOff+16*i, 0, 0, 0, flags)
		}
	}
	return m
}

// next is the place n places on.
func (m *model) next(s spot, n int) spot {
	for range n {
		if s.at++; m.packed && int(s.at) == m.size {
			s = spot{0, !s.wrap}
		}
	}
	return s
}

// shape makes up a buffer: pieces anywhere in the data regions, some of them empty, and how many of them stand in the ring itself; the rest
// is in an indirect table.
func (m *model) shape() (pieces []piece, inRing int) {
	most := maxPieces
	if !m.indirect {
		most = min(most, m.size)
	}
	pieces = make([]piece, 1+m.rnd.IntN(most))
	addr := dataGPA + uint64(m.rnd.IntN(dataEnd-dataGPA-maxPieces*300))
	if m.rnd.IntN(4) == 0 {
		addr = dataSplit - uint64(m.rnd.IntN(1000)) // across the border
	}
	for i := range pieces {
		n := m.rnd.IntN(200)
		if m.rnd.IntN(20) == 0 {
			n = 0
		}
		pieces[i] = piece{addr, n}
		addr += uint64(n + m.rnd.IntN(100))
	}
	inRing = len(pieces)
	if m.indirect && m.rnd.IntN(2) == 0 {
		inRing = m.rnd.IntN(len(pieces)) // often 0: all in the table
	}
	return pieces, inRing
}

// offer makes one buffer available, or returns nil if the ring has no room for what it thought of.
func (m *model) offer() *buffer {
	pieces, inRing := m.shape()
	need := inRing
	if inRing < len(pieces) {
		need++
	}
	if m.packed && m.room < need || !m.packed && len(m.free) < need {
		return nil
	}
	b := &buffer{pieces: pieces, slots: need}
	if m.packed {
		m.offerPacked(b, inRing)
	} else {
		m.offerSplit(b, inRing)
	}
	m.held[b.id] = b
	return b
}

func (m *model) flags() uint16 {
	if m.receive {
		return 2
	}
	return 0
}

func (m *model) offerSplit(b *buffer, inRing int) {
	b.own, m.free = slices.Clone(m.free[:b.slots]), m.free[b.slots:]
	b.id = b.own[0]
	for i, d := range b.own {
		flags, next := m.flags(), uint16(m.rnd.Uint32()) // next means nothing without the flag
		if i+1 < len(b.own) {
			flags, next = flags|1, b.own[i+1]
		}
		if i < inRing {
			m.put(descOff+16*int(d), b.pieces[i].addr, b.pieces[i].n, flags, next)
			continue
		}
		at := int(d) * tableSize
		flags = flags&^2 | 4 | uint16(m.rnd.IntN(2)*2) // a device ignores WRITE here (2.7.5.3.2)
		m.put(descOff+16*int(d), tablesGPA+uint64(at), 16*(len(b.pieces)-inRing), flags, next)
		m.splitTable(tablesOff+at, b.pieces[inRing:])
	}
	m.put16(driverOff+4+2*(int(m.offers.at)%m.size), b.id)
	m.publish(1)
	store32(m.file, driverOff, load32(m.file, driverOff)&0xffff|uint32(m.offers.at)<<16)
}

// splitTable links the entries in any order that begins with the first.
func (m *model) splitTable(off int, pieces []piece) {
	order := append([]int{0}, m.rnd.Perm(len(pieces)-1)...)
	for i := range order[1:] {
		order[i+1]++
	}
	for i, p := range pieces {
		flags, next := m.flags(), 0
		if i+1 < len(pieces) {
			flags, next = flags|1, order[i+1]
		}
		m.put(off+16*order[i], p.addr, p.n, flags, uint16(next))
	}
}

// offerPacked writes the slots from the last to the first, so that the device sees all or none (2.8.21.1).
func (m *model) offerPacked(b *buffer, inRing int) {
	pick := m.rnd.IntN(len(m.free))
	b.id = m.free[pick]
	m.free[pick] = m.free[len(m.free)-1]
	m.free = m.free[:len(m.free)-1]
	m.room -= b.slots
	for i := b.slots - 1; i >= 0; i-- {
		slot, flags := m.next(m.offers, i), m.flags()
		if slot.wrap {
			flags |= 1 << 7
		} else {
			flags |= 1 << 15
		}
		id := uint16(m.rnd.Uint32()) // only the last one's counts
		if i+1 == b.slots {
			id = b.id
		} else {
			flags |= 1
		}
		off := descOff + 16*int(slot.at)
		if i < inRing {
			m.put(off, b.pieces[i].addr, b.pieces[i].n, id, flags)
			continue
		}
		at := int(b.id) * tableSize
		for k, p := range b.pieces[inRing:] {
			m.put(tablesOff+at+16*k, p.addr, p.n, uint16(m.rnd.Uint32()), m.flags())
		}
		m.put(off, tablesGPA+uint64(at), 16*(len(b.pieces)-inRing), id, flags|4)
	}
	m.publish(b.slots)
}

func (m *model) publish(n int) {
	for range n {
		m.published = append(m.published, m.offers)
		m.offers = m.next(m.offers, 1)
	}
}

// kickDue tells whether the device wants to hear of what was published since the last time (2.7.10, 2.8.10).
func (m *model) kickDue() bool {
	published := m.published
	m.published = m.published[:0]
	switch {
	case len(published) == 0:
		return false
	case m.packed:
		word := load32(m.file, deviceOff)
		return word>>16&3 == 0 || word>>16&3 == 2 && slices.Contains(published, spot{uint16(word) & 0x7fff, word>>15&1 == 1})
	case m.event:
		return slices.Contains(published, spot{at: m.get16(deviceOff + 4 + 8*m.size)})
	default:
		return load32(m.file, deviceOff)&1 == 0
	}
}

// callWish is when the driver wants to be called.
type callWish struct {
	always, never bool
	event         spot
}

func (m *model) wish(c callWish) {
	switch {
	case m.packed:
		word := uint32(0)
		if c.never {
			word = 1 << 16
		} else if !c.always {
			word = 2<<16 | uint32(c.event.at)
			if c.event.wrap {
				word |= 1 << 15
			}
		}
		store32(m.file, driverOff, word)
	case m.event:
		store32(m.file, driverOff+4+2*m.size, uint32(c.event.at))
	default:
		word := load32(m.file, driverOff) &^ 0xffff
		if c.never {
			word |= 1
		}
		store32(m.file, driverOff, word)
	}
}

// collect takes what the device has returned, and the places that it filled.
func (m *model) collect() (list []returnedBuffer, places []spot) {
	for {
		var id uint16
		var length uint32
		if m.packed {
			word := load64(m.file, descOff+16*int(m.seen.at)+8)
			if (word>>55&1 == 1) != m.seen.wrap || word>>63 != word>>55&1 {
				return list, places
			}
			if id = uint16(word >> 32); word>>49&1 == 1 {
				if length = uint32(word); length == 0 {
					panic("a used descriptor has WRITE and nothing was written (2.8.5)")
				}
			}
		} else {
			if uint16(load32(m.file, deviceOff)>>16) == m.seen.at {
				return list, places
			}
			e := deviceOff + 4 + 8*(int(m.seen.at)%m.size)
			id, length = uint16(load32(m.file, e)), load32(m.file, e+4)
		}
		b := m.held[id]
		if b == nil {
			panic("the device returned a buffer that it does not have")
		}
		delete(m.held, id)
		list = append(list, returnedBuffer{b, length})
		n := 1
		if m.packed {
			n, m.room, m.free = b.slots, m.room+b.slots, append(m.free, id)
		} else {
			m.free = append(m.free, b.own...)
		}
		for range n {
			places = append(places, m.seen)
			m.seen = m.next(m.seen, 1)
		}
	}
}
