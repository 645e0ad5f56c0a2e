package virtio

// The journal of a packed ring is one 64-bit word: the position after the last Complete, and the buffer returned last, by which a later
// process can tell whether the ring is still the same.
const (
	journalWrap     = 1 << 15 // wrap counter of the position in bits 0..14
	journalHeadWrap = 1 << 31 // wrap counter of the last used descriptor, at bits 16..30
	journalID       = 32      // its buffer id, 16 bits
	journalValid    = 1 << 63
)

// writeJournal stores the position after the used descriptor at head, which carries id.
func (q *Queue) writeJournal(head uint16, headWrap bool, id uint16) {
	word := uint64(q.used) | uint64(head)<<16 | uint64(id)<<journalID | journalValid
	if q.usedWrap {
		word |= journalWrap
	}
	if headWrap {
		word |= journalHeadWrap
	}
	q.journal.StoreReleaseU64(word)
}

// resumePacked continues where the process before this one stopped, if the buffer that it returned last still stands in the ring. If it was
// killed between returning buffers and storing the position, buffers after the position are marked used already: they are passed over.
func (q *Queue) resumePacked() {
	word := q.resume
	pos, head := uint16(word&0x7fff), uint16(word>>16&0x7fff)
	if word&journalValid == 0 || uint32(pos) >= q.size || uint32(head) >= q.size {
		return
	}
	used := q.loadPacked(head)
	if !isUsed(uint16(used>>48), word&journalHeadWrap != 0) || uint16(used>>32) != uint16(word>>journalID) {
		return
	}
	q.avail, q.availWrap = pos, word&journalWrap != 0
	for range q.size {
		if !isUsed(uint16(q.loadPacked(q.avail)>>48), q.availWrap) {
			break
		}
		q.avail, q.availWrap = q.after(q.avail, q.availWrap, 1)
	}
	q.used, q.usedWrap = q.avail, q.availWrap
	q.callIndex, q.callWrap = q.used, q.usedWrap
}

// isUsed tells whether a descriptor with these flags was returned at the given wrap counter.
func isUsed(flags uint16, wrap bool) bool {
	return (flags&packedAvail != 0) == wrap && (flags&packedUsed != 0) == wrap
}
