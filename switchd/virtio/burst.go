package virtio

import "vhostkit/switchd/guestmem"

const (
	// BurstSize is how many chains are fetched at once at most.
	BurstSize = 64
	// maxSegments bounds the segments of one burst.
	maxSegments = 4096
	// maxWalk bounds the descriptors read for one burst, so that long chains cannot keep a worker from its other guests. A burst ends with
	// the chain that reaches it, and no chain is longer than maxTransmitChain.
	maxWalk = 8192
	// maxReceiveChain is how many descriptors a buffer for frames may have, whatever the ring's size, those without bytes and those in a table
	// included. The longest frame, 64 KiB that somebody left for segmentation, takes 17 pages; Linux posts 19 descriptors at most
	// (MAX_SKB_FRAGS + 2), FreeBSD 34. A longer one helps nobody, and would be walked again for each frame that does not fit it.
	maxReceiveChain = 64
	// maxTransmitChain is the same for frames to be sent: Linux takes 19 at most (47 where MAX_SKB_FRAGS is set to its limit), FreeBSD 64, and
	// DPDK as many as a frame has pieces, which are 255 at most.
	maxTransmitChain = 256
	// chainPieces bounds, in pieces for each descriptor that its chain may have, what a chain is made of after its buffers were cut at the
	// borders of memory regions. Honest memory has few of these, a front-end can have one at every byte. A chain of more is marked Cut.
	chainPieces = 2
)

// Chain is one buffer that the driver made available: one or more descriptors.
type Chain struct {
	ID      uint16 // split: head descriptor; packed: buffer id
	count   uint16 // slots of the descriptor ring that it takes (packed)
	Cut     bool   // has more segments than are looked at, and is described as far as they go
	First   uint32 // its first segment in Burst.Segments
	Count   uint32 // number of segments
	Len     uint64 // bytes in all its descriptors
	Written uint32 // bytes that the device wrote into it: set by the caller before Complete, 0 for transmit queues
}

// Burst holds fetched chains. It belongs to one thread and is reused; the zero value is ready.
type Burst struct {
	Chains   [BurstSize]Chain
	N        int // chains fetched
	Segments [maxSegments]guestmem.Segment
	segments int
	walked   int
	next     uint16 // ring position after the fetched chains
	wrap     bool   // packed: wrap counter there
}

// Of gives the segments of a chain. The slice is valid until the burst is fetched anew.
func (b *Burst) Of(c *Chain) []guestmem.Segment { return b.Segments[c.First : c.First+c.Count] }

// Reset empties the burst and places it at the queue's current position.
func (b *Burst) Reset(q *Queue) {
	b.N, b.segments, b.walked = 0, 0, 0
	b.next, b.wrap = q.avail, q.availWrap
}

// add appends a stretch of guest memory to the chain being walked, which may have that many.
func (b *Burst) add(c *Chain, p guestmem.Ptr, n uint64, most int) {
	if b.segments == maxSegments || int(c.Count) == most {
		c.Cut = true
		return
	}
	b.Segments[b.segments] = guestmem.Segment{Addr: p, Len: uint32(n)}
	b.segments++
	c.Count++
}

// begin starts the next chain.
func (b *Burst) begin(id uint16) *Chain {
	c := &b.Chains[b.N]
	*c = Chain{ID: id, First: uint32(b.segments)}
	return c
}
