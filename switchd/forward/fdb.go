package forward

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"

	"vhostkit/switchd/ether"
)

// addressTable maps addresses to ports. Workers read it without a lock: an entry is one 64-bit word, the address's key in the upper 48 bits
// and the port + 1 in the lower 15. Writers (learning, ageing, a port that leaves) hold fdb.mu; workers only set slotFresh.
type addressTable struct {
	slots      []atomic.Uint64
	used       int // slots not empty, removed ones included; fdb.mu
	shift      uint
	multiplier uint64 // random and odd, so that guests cannot choose addresses that collide
}

// key is an address as entries hold it: its six bytes as they lie in a frame, in the upper 48 bits, the lower 16 being 0. A frame's header as it
// was loaded gives it with one shift.
func key(mac ether.MAC) uint64 { return bits.ReverseBytes64(uint64(mac)) }

// keyMask selects the key of an entry.
const keyMask = ^uint64(0xffff)

const (
	slotEmpty   = 0
	slotFresh   = 1 << 15   // the address was a source since the clock's last step
	slotRemoved = slotFresh // and address 0, which no station has
	minSlots    = 1024
)

func newAddressTable(addresses int) *addressTable {
	n := minSlots
	for n < 4*addresses {
		n *= 2
	}
	return &addressTable{
		slots: make([]atomic.Uint64, n),
		shift: uint(64 - bits.TrailingZeros(uint(n))), multiplier: rand.Uint64() | 1,
	}
}

// find gives the slot and port of an address, or a negative port.
func (t *addressTable) find(mac ether.MAC) (slot, port int) {
	slot, word := t.probe(key(mac), t.home(key(mac)))
	return slot, portOf(word)
}

// home gives the slot where an address belongs; most are found there. The slots are as many as there are results of the shift.
func (t *addressTable) home(key uint64) int { return int(key * t.multiplier >> (t.shift & 63)) }

// probe looks for an address from a slot on, up to an empty one.
func (t *addressTable) probe(key uint64, from int) (slot int, word uint64) {
	mask := len(t.slots) - 1
	for slot = from; ; slot = (slot + 1) & mask {
		word = t.slots[slot].Load()
		if word&keyMask == key || word == slotEmpty {
			return slot, word
		}
	}
}

// freshEntry is the word of an address of a port that was a source since the clock's last step, without the key.
func freshEntry(port int) uint64 { return slotFresh | uint64(port+1) }

// portOf gives the port of a slot's word, -1 if it is empty or its address was removed.
func portOf(word uint64) int { return int(word&(slotFresh-1)) - 1 }

// refresh notes that an address was just a source, and tells whether it is the port's. A change that comes at the same time goes first.
func (t *addressTable) refresh(mac ether.MAC, port int) bool {
	slot, word := t.probe(key(mac), t.home(key(mac)))
	if portOf(word) != port {
		return false
	}
	if word&slotFresh == 0 {
		t.slots[slot].CompareAndSwap(word, word|slotFresh)
	}
	return true
}

// put enters an address if it is not there: into the first slot on its way that is free. The caller holds fdb.mu.
func (t *addressTable) put(key uint64, port int) {
	mask, free := len(t.slots)-1, -1
	for slot := t.home(key); ; slot = (slot + 1) & mask {
		word := t.slots[slot].Load()
		switch {
		case word&keyMask == key && word != slotRemoved:
			return
		case word == slotEmpty:
			if free < 0 {
				free = slot
				t.used++
			}
			t.slots[free].Store(key | uint64(port+1))
			return
		case word == slotRemoved && free < 0:
			free = slot
		}
	}
}

// take removes an address if it is there. Where a search would end behind its slot anyhow, the slot becomes empty, and with it the removed ones
// before it: a table whose addresses change all the time does not fill up. The caller holds fdb.mu.
func (t *addressTable) take(key uint64) {
	mask := len(t.slots) - 1
	slot, word := t.probe(key, t.home(key))
	if portOf(word) < 0 {
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
func (t *addressTable) fresh(key uint64) bool {
	_, word := t.probe(key, t.home(key))
	return portOf(word) >= 0 && word&slotFresh != 0
}

// tire makes an address not fresh, and tells whether it was.
func (t *addressTable) tire(key uint64) bool {
	slot, word := t.probe(key, t.home(key))
	if portOf(word) < 0 || word&slotFresh == 0 {
		return false
	}
	t.slots[slot].CompareAndSwap(word, word&^slotFresh)
	return true
}
