package virtio

import "vhostkit/switchd/guestmem"

const (
	// BurstSize is how many chains are fetched at once at most.
	BurstSize = 64
	// maxSegments bounds the segments of one burst. A chain that alone has more is described as far as they go and marked Cut.
	maxSegments = 4096
	// maxWalk bounds the descriptors read for one burst, so that long chains cannot keep a worker from its other guests.
	maxWalk = 8192
	// minMaxChain is how many descriptors a chain may have even in a smaller ring: drivers may build longer indirect tables.
	minMaxChain = 256
)

// Chain is one buffer that the driver made available: one or more descriptors.
type Chain struct {
	ID      uint16 // split: head descriptor; packed: buffer id
	count   uint16 // slots of the descriptor ring that it takes (packed)
	Cut     bool   // has more segments than a burst can describe
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

// add appends a stretch of guest memory to the chain being walked.
func (b *Burst) add(c *Chain, p guestmem.Ptr, n uint64) {
	if b.segments == maxSegments {
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
