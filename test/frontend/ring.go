package frontend

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// Layout is how a buffer is described to the device.
type Layout int

// Layouts.
const (
	Direct   Layout = iota // one descriptor
	Chained                // the header in a descriptor of its own, then the data in two
	Indirect               // the same in an indirect table
)

// Places in a ring's part of the memory.
const (
	ringBytes   = 2 << 20
	driverAt    = 0x10000
	deviceAt    = 0x20000
	tablesAt    = 0x40000 // indirect tables, 64 bytes each
	dataAt      = 0x80000
	maxRingSize = 512
)

// Ring is a vring from the driver's side. It is used by one goroutine.
type Ring struct {
	Base   guestmem.Ptr // of its part of the memory, here
	GPA    uint64       // of its part of the memory, for the device
	Size   int
	Buffer int // bytes of one buffer, header included
	Kick   int // eventfd
	Call   int // eventfd

	packed, eventIdx, write bool
	layout                  Layout
	free                    []int // buffers that are ours
	slots                   int   // free descriptor slots
	avail, used             uint16
	availWrap, usedWrap     bool
	taken                   map[int]int // packed: slots of the buffers that are the device's, by id
	published               uint16      // split: avail index at the last kick decision
	managed                 bool        // WantCalls says when the device may call
	Kicks                   int
}

// ErrFull says that the device has all descriptors.
var ErrFull = errors.New("ring is full")

func (r *Ring) slotsPerBuffer() int {
	if r.layout == Chained {
		return 3
	}
	return 1
}

// Desc is the descriptor area. Tests may write into any area what they should not.
func (r *Ring) Desc() guestmem.Ptr { return r.Base }

// Driver is the avail ring, or the driver event suppression.
func (r *Ring) Driver() guestmem.Ptr { return r.Base + driverAt }

// Device is the used ring, or the device event suppression.
func (r *Ring) Device() guestmem.Ptr { return r.Base + deviceAt }

// Data is buffer i.
func (r *Ring) Data(i int) guestmem.Ptr { return r.Base + dataAt + guestmem.Ptr(i*r.Buffer) }

type piece struct {
	addr uint64
	size int
}

// pieces cuts a buffer as the layout says.
func (r *Ring) pieces(id, size, header int) []piece {
	gpa := r.GPA + dataAt + uint64(id*r.Buffer)
	if r.layout == Direct || size < header+2 {
		return []piece{{gpa, size}}
	}
	half := (size - header) / 2
	return []piece{{gpa, header}, {gpa + uint64(header), half}, {gpa + uint64(header+half), size - header - half}}
}

// add makes buffer id available with its first size bytes.
func (r *Ring) add(id, size, header int) error {
	pieces := r.pieces(id, size, header)
	need := len(pieces)
	if r.layout == Indirect {
		need = 1
	}
	if r.slots < need {
		return ErrFull
	}
	r.slots -= need
	if r.packed {
		r.addPacked(id, pieces)
	} else {
		r.addSplit(id, pieces)
	}
	return nil
}

func (r *Ring) descriptor(at guestmem.Ptr, p piece, flags, next uint16) {
	at.StoreU64(p.addr)
	(at + 8).StoreU32(uint32(p.size))
	(at + 12).StoreU16(flags)
	(at + 14).StoreU16(next)
}

func (r *Ring) writeFlag() uint16 {
	if r.write {
		return 2
	}
	return 0
}

// addSplit uses descriptors 3*id.. (Chained) or id.
func (r *Ring) addSplit(id int, pieces []piece) {
	first := id * r.slotsPerBuffer()
	table, base := r.Desc(), first
	if r.layout == Indirect && len(pieces) > 1 {
		table, base = r.Base+tablesAt+guestmem.Ptr(64*id), 0
		r.descriptor(r.Desc()+guestmem.Ptr(16*id), piece{r.GPA + tablesAt + uint64(64*id), 16 * len(pieces)}, 4, 0)
	}
	for i, p := range pieces {
		flags, next := r.writeFlag(), uint16(0)
		if i+1 < len(pieces) {
			flags, next = flags|1, uint16(base+i+1)
		}
		r.descriptor(table+guestmem.Ptr(16*(base+i)), p, flags, next)
	}
	(r.Driver() + 4 + guestmem.Ptr(2*(int(r.avail)%r.Size))).StoreU16(uint16(first))
	r.avail++
	r.Driver().StoreReleaseU32(uint32(r.avail)<<16 | uint32(r.Driver().LoadU16()))
}

func (r *Ring) addPacked(id int, pieces []piece) {
	if r.layout == Indirect && len(pieces) > 1 {
		table := r.Base + tablesAt + guestmem.Ptr(64*id)
		for i, p := range pieces {
			r.descriptor(table+guestmem.Ptr(16*i), p, 0, r.writeFlag())
		}
		r.packedSlots(id, []piece{{r.GPA + tablesAt + uint64(64*id), 16 * len(pieces)}}, 4)
		return
	}
	r.packedSlots(id, pieces, r.writeFlag())
}

// packedSlots writes descriptors; the flags of the first are written last.
func (r *Ring) packedSlots(id int, pieces []piece, flags uint16) {
	var firstAt guestmem.Ptr
	var firstWord uint64
	for i, p := range pieces {
		f := flags
		if i+1 < len(pieces) {
			f |= 1
		}
		if r.availWrap {
			f |= 1 << 7
		} else {
			f |= 1 << 15
		}
		at := r.Desc() + guestmem.Ptr(16*int(r.avail))
		at.StoreU64(p.addr)
		word := uint64(p.size) | uint64(id)<<32 | uint64(f)<<48
		if i == 0 {
			firstAt, firstWord = at+8, word
		} else {
			(at + 8).StoreReleaseU64(word)
		}
		if r.avail++; int(r.avail) == r.Size {
			r.avail, r.availWrap = 0, !r.availWrap
		}
	}
	r.taken[id] = len(pieces)
	firstAt.StoreReleaseU64(firstWord)
}

// take gives the next buffer that the device returned, and how many bytes it wrote.
func (r *Ring) take() (id, written int, ok bool) {
	if r.packed {
		return r.takePacked()
	}
	if uint16(r.Device().LoadAcquireU32()>>16) == r.used {
		return 0, 0, false
	}
	e := r.Device() + 4 + guestmem.Ptr(8*(int(r.used)%r.Size))
	id, written = int(e.LoadU32())/r.slotsPerBuffer(), int((e + 4).LoadU32())
	r.used++
	if r.eventIdx && !r.managed {
		(r.Driver() + 4 + guestmem.Ptr(2*r.Size)).StoreU16(r.used) // used_event: call for the next one
	}
	r.slots += r.slotsPerBuffer()
	return id, written, true
}

func (r *Ring) takePacked() (id, written int, ok bool) {
	word := (r.Desc() + guestmem.Ptr(16*int(r.used)) + 8).LoadAcquireU64()
	flags := uint16(word >> 48)
	if (flags>>7&1 == 1) != r.usedWrap || (flags>>15&1 == 1) != r.usedWrap {
		return 0, 0, false
	}
	id, written = int(uint16(word>>32)), int(uint32(word))
	n, known := r.taken[id]
	if !known {
		panic(fmt.Sprintf("the device returned buffer %d, which it does not have", id))
	}
	delete(r.taken, id)
	r.slots += n
	if r.used += uint16(n); int(r.used) >= r.Size {
		r.used, r.usedWrap = r.used-uint16(r.Size), !r.usedWrap
	}
	return id, written, true
}

// KickIfWanted kicks the device if it asked for it.
func (r *Ring) KickIfWanted(fence *guestmem.Fence) {
	fence.Full()
	wanted := false
	switch {
	case r.packed:
		wanted = (r.Device()+2).LoadU16()&3 != 1
	case r.eventIdx:
		event := (r.Device() + 4 + guestmem.Ptr(8*r.Size)).LoadU16()
		wanted = r.avail-event-1 < r.avail-r.published
	default:
		wanted = r.Device().LoadU16()&1 == 0
	}
	r.published = r.avail
	if wanted {
		r.KickNow()
	}
}

// KickNow kicks the device.
func (r *Ring) KickNow() {
	r.Kicks++
	_, _ = unix.Write(r.Kick, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}
