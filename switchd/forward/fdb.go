package forward

import (
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"vhostkit/switchd/ether"
)

// addressTable maps addresses to ports. Workers read it without a lock: an entry is one 64-bit word, the address's key in the upper 48 bits
// and the port + 1 in the lower 15. Writers (learning, ageing, a port that leaves) hold fdb.mu; workers only set slotFresh.
type addressTable struct {
	slots      []atomic.Uint64
	seen       []uint32 // second of the switch's clock at which the address was last found fresh; fdb.mu
	shift      uint
	multiplier uint64 // random and odd, so that guests cannot choose addresses that collide
}

// key is an address as entries hold it: its six bytes as they lie in a frame, in the upper 48 bits, the lower 16 being 0. A frame's header as it
// was loaded gives it with one shift.
func key(mac ether.MAC) uint64 { return bits.ReverseBytes64(uint64(mac)) }

// keyMask selects the key of an entry.
const keyMask = ^uint64(0xffff)

// addressOf gives the address of an entry.
func addressOf(word uint64) ether.MAC { return ether.MAC(bits.ReverseBytes64(word & keyMask)) }

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
		slots: make([]atomic.Uint64, n), seen: make([]uint32, n),
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

// fdb is the forwarding database: the address table and what is needed to change it.
type fdb struct {
	mu      sync.Mutex
	table   atomic.Pointer[addressTable]
	live    int // addresses
	used    int // slots not empty, removed ones included
	perPort map[int]int
}

func newFDB() *fdb {
	f := &fdb{perPort: map[int]int{}}
	f.table.Store(newAddressTable(0))
	return f
}

// insert adds an address that is not there. The caller holds mu.
func (f *fdb) insert(mac ether.MAC, port int, now uint32) {
	t := f.table.Load()
	if 2*(f.used+1) > len(t.slots) {
		t = f.rebuild()
	}
	slot, _ := t.find(mac)
	t.seen[slot] = now
	t.slots[slot].Store(key(mac) | uint64(port+1))
	f.live++
	f.used++
	f.perPort[port]++
}

// remove takes an entry out. The caller holds mu.
func (f *fdb) remove(slot int) (mac ether.MAC, port int) {
	t := f.table.Load()
	word := t.slots[slot].Load()
	t.slots[slot].Store(slotRemoved)
	port = portOf(word)
	f.live--
	f.perPort[port]--
	return addressOf(word), port
}

// rebuild makes a new table without removed slots, and larger if need be. Readers go on with the old one until they look again.
func (f *fdb) rebuild() *addressTable {
	old := f.table.Load()
	t := newAddressTable(f.live + 1)
	f.used = f.live
	for i := range old.slots {
		if word := old.slots[i].Load(); word != slotEmpty && word != slotRemoved {
			slot, _ := t.find(addressOf(word))
			t.seen[slot] = old.seen[i]
			t.slots[slot].Store(word)
		}
	}
	f.table.Store(t)
	return t
}

// step is to be called when the clock is about to step from now on: what is fresh was seen now. Workers whose clock has stepped make it
// fresh again.
func (f *fdb) step(now uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.table.Load()
	for i := range t.slots {
		if word := t.slots[i].Load(); word&slotFresh != 0 && word != slotRemoved {
			t.seen[i] = now
			t.slots[i].CompareAndSwap(word, word&^slotFresh)
		}
	}
}

// each calls fn for every entry, with the seconds since it was a source, until it returns false. The caller holds mu; fn may remove the entry.
func (f *fdb) each(now uint32, fn func(slot int, mac ether.MAC, port int, age uint32) bool) {
	t := f.table.Load()
	for i := range t.slots {
		word := t.slots[i].Load()
		if word == slotEmpty || word == slotRemoved {
			continue
		}
		age := now - min(t.seen[i], now)
		if word&slotFresh != 0 {
			age = 0
		}
		if !fn(i, addressOf(word), portOf(word), age) {
			return
		}
	}
}
