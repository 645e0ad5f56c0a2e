package virtio

import (
	"math/bits"

	"vhostkit/switchd/guestmem"
)

// Buffers of a transmit queue can be held: consumed, so that those behind them can be fetched, but not returned before somebody else (a NIC
// that reads frames from where they lie) is done with them. They are returned in the order in which they came. A queue that holds buffers
// stands, for State and for a restart, before the first of them: what was not returned is fetched again by the next one.

// heldChain is a chain that was consumed and not returned.
type heldChain struct{ id, slots uint16 }

// holding is what a queue remembers of the chains that it holds; one for each slot of the ring can be.
type holding struct {
	chains     []heldChain // a power of two
	head, tail uint32      // chains[head:tail] are held; free running
}

// AllowHold makes Hold and HoldViews possible. Only transmit queues can hold buffers.
func (q *Queue) AllowHold() {
	if q.write == 0 && q.held == nil {
		q.held = &holding{chains: make([]heldChain, 1<<bits.Len32(q.size-1))}
	}
}

// Held is how many chains the queue holds. While it holds any, Complete and CompleteViews must not be called.
func (q *Queue) Held() int {
	if q.held == nil {
		return 0
	}
	return int(q.held.tail - q.held.head)
}

// Hold consumes the first n chains of the burst without returning them.
func (q *Queue) Hold(b *Burst, n int) {
	for i := range b.Chains[:n] {
		slots := uint16(1)
		if q.packed {
			slots = b.Chains[i].count
		}
		q.hold(b.Chains[i].ID, slots)
	}
}

// HoldViews consumes the views without returning them.
func (q *Queue) HoldViews(v []View) {
	for i := range v {
		q.hold(v[i].ID, 1)
	}
}

func (q *Queue) hold(id, slots uint16) {
	h := q.held
	h.chains[h.tail&uint32(len(h.chains)-1)] = heldChain{id, slots}
	h.tail++
	q.unreturned += uint32(slots)
	if q.packed {
		q.avail, q.availWrap = q.after(q.avail, q.availWrap, slots)
	} else {
		q.avail++
	}
}

// Return gives the n chains that were held longest back to the driver and makes that visible at once.
func (q *Queue) Return(n int) {
	n = min(n, q.Held())
	if n <= 0 {
		return
	}
	if q.packed {
		q.returnPacked(n)
	} else {
		q.returnSplit(n)
	}
}

func (h *holding) take() heldChain {
	c := h.chains[h.head&uint32(len(h.chains)-1)]
	h.head++
	return c
}

func (q *Queue) returnSplit(n int) {
	mask, ring := q.size-1, q.device+ringEntries
	for range n {
		c := q.held.take()
		(ring + guestmem.Ptr(uint32(q.used)&mask)*usedEntrySize).StoreU64(uint64(c.id))
		q.used++
	}
	q.unreturned -= uint32(n)
	q.returned += uint32(n)
	q.publishUsedIndex()
}

func (q *Queue) returnPacked(n int) {
	var head, id uint16
	var headWrap bool
	for range n {
		c := q.held.take()
		head, headWrap, id = q.used, q.usedWrap, c.id
		word := uint64(id) << 32
		if headWrap {
			word |= (packedAvail | packedUsed) << 48
		}
		(q.desc + guestmem.Ptr(head)*descSize + 8).StoreReleaseU64(word)
		q.used, q.usedWrap = q.after(head, headWrap, c.slots)
		q.unreturned -= uint32(c.slots)
		q.returned += uint32(c.slots)
	}
	if q.journal != 0 {
		q.writeJournal(head, headWrap, id)
	}
}
