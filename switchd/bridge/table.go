package bridge

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"

	"vhostkit/switchd/ether"
)

// Destination is where frames for an address go: a number that whoever owns the domain gives each of its ports. It is an index of a small array
// there, and neither a VLAN nor a queue of a NIC.
type Destination int

// None is the destination of addresses that are not known.
const None Destination = -1

// MaxDestination is the largest one that an entry holds.
const MaxDestination Destination = slotFresh - 2

// Table maps addresses to destinations. Workers read it without a lock: an entry is one 64-bit word, the address's key in the upper 48 bits
// and the destination + 1 in the lower 15. Writers (learning, ageing, a port that leaves) hold the domain's lock; workers only set slotFresh.
type Table struct {
	slots      []atomic.Uint64
	used       int // slots not empty, removed ones included; the domain's lock
	shift      uint
	multiplier uint64 // random and odd, so that guests cannot choose addresses that collide
}

// Key is an address as entries hold it: its six bytes as they lie in a frame, in the upper 48 bits, the lower 16 being 0. A frame's header as it
// was loaded gives it with one shift.
func Key(mac ether.MAC) uint64 { return bits.ReverseBytes64(uint64(mac)) }

// KeyMask selects the key of an entry.
const KeyMask = ^uint64(0xffff)

const (
	slotEmpty   = 0
	slotFresh   = 1 << 15   // the address was a source since the clock's last step
	slotRemoved = slotFresh // and address 0, which no station has
	minSlots    = 1024
)

func newTable(addresses int) *Table {
	n := minSlots
	for n < 4*addresses {
		n *= 2
	}
	return &Table{
		slots: make([]atomic.Uint64, n),
		shift: uint(64 - bits.TrailingZeros(uint(n))), multiplier: rand.Uint64() | 1,
	}
}

// Find gives the destination of an address.
func (t *Table) Find(mac ether.MAC) Destination {
	_, word := t.Probe(Key(mac), t.home(Key(mac)))
	return DestinationOf(word)
}

// Parts is for those who look up many addresses in a row and want to keep everything that stays the same in registers: the entry of a key is
// most often that in slots[key*multiplier>>shift], and otherwise Probe finds it from there on.
func (t *Table) Parts() (slots []atomic.Uint64, multiplier uint64, shift uint) {
	return t.slots, t.multiplier, t.shift & 63
}

// home gives the slot where an address belongs; most are found there. The slots are as many as there are results of the shift.
func (t *Table) home(key uint64) int { return int(key * t.multiplier >> (t.shift & 63)) }

// Probe looks for an address from a slot on, up to an empty one.
func (t *Table) Probe(key uint64, from int) (slot int, word uint64) {
	mask := len(t.slots) - 1
	for slot = from; ; slot = (slot + 1) & mask {
		word = t.slots[slot].Load()
		if word&KeyMask == key || word == slotEmpty {
			return slot, word
		}
	}
}

// FreshEntry is the word of an address that was a source since the clock's last step, without the key.
func FreshEntry(to Destination) uint64 { return slotFresh | uint64(to+1) }

// DestinationOf gives the destination of a slot's word, None if it is empty or its address was removed.
func DestinationOf(word uint64) Destination { return Destination(word&(slotFresh-1)) - 1 }

// Refresh notes that an address was just a source, and tells whether it is known there. A change that comes at the same time goes first.
func (t *Table) Refresh(mac ether.MAC, at Destination) bool {
	slot, word := t.Probe(Key(mac), t.home(Key(mac)))
	if DestinationOf(word) != at {
		return false
	}
	if word&slotFresh == 0 {
		t.slots[slot].CompareAndSwap(word, word|slotFresh)
	}
	return true
}

// put enters an address if it is not there: into the first slot on its way that is free. The caller holds the domain's lock.
func (t *Table) put(key uint64, to Destination) {
	mask, free := len(t.slots)-1, -1
	for slot := t.home(key); ; slot = (slot + 1) & mask {
		word := t.slots[slot].Load()
		switch {
		case word&KeyMask == key && word != slotRemoved:
			return
		case word == slotEmpty:
			if free < 0 {
				free = slot
				t.used++
			}
			t.slots[free].Store(key | uint64(to+1))
			return
		case word == slotRemoved && free < 0:
			free = slot
		}
	}
}

// take removes an address if it is there. Where a search would end behind its slot anyhow, the slot becomes empty, and with it the removed ones
// before it: a table whose addresses change all the time does not fill up. The caller holds the domain's lock.
func (t *Table) take(key uint64) {
	mask := len(t.slots) - 1
	slot, word := t.Probe(key, t.home(key))
	if DestinationOf(word) < 0 {
		return
	}
	t.slots[slot].Store(slotRemoved)
	if t.slots[(slot+1)&mask].Load() != slotEmpty {
		return
	}
	for ; t.slots[slot].Load() == slotRemoved; slot = (slot - 1) & mask {
		t.slots[slot].Store(slotEmpty)
		t.used--
	}
}

// fresh tells whether an address was a source since the clock's last step.
func (t *Table) fresh(key uint64) bool {
	_, word := t.Probe(key, t.home(key))
	return DestinationOf(word) >= 0 && word&slotFresh != 0
}

// tire makes an address not fresh, and tells whether it was.
func (t *Table) tire(key uint64) bool {
	slot, word := t.Probe(key, t.home(key))
	if DestinationOf(word) < 0 || word&slotFresh == 0 {
		return false
	}
	t.slots[slot].CompareAndSwap(word, word&^slotFresh)
	return true
}
