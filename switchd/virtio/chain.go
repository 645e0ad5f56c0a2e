package virtio

import (
	"fmt"

	"vhostkit/switchd/guestmem"
)

// Descriptor flags (virtio 1.2, 2.7.5 and 2.8.5).
const (
	descNext     = 1 // VIRTQ_DESC_F_NEXT
	descWrite    = 2 // VIRTQ_DESC_F_WRITE
	descIndirect = 4 // VIRTQ_DESC_F_INDIRECT
	descSize     = 16
)

// notShared is the usual cause of a good driver's buffer that the switch cannot see.
const notShared = "; most likely a part of the guest's memory is not shared: with NUMA nodes or pc-dimm each memory backend needs share=on"

// addBuffer checks one descriptor's buffer and adds it to the chain. A buffer may cross from one region into the next.
func (q *Queue) addBuffer(b *Burst, c *Chain, addr uint64, size uint32, flags uint16) error {
	if flags&descWrite != q.write {
		if q.write != 0 {
			return fmt.Errorf("%w: receive buffer %d has a descriptor that the device may not write", ErrRing, c.ID)
		}
		return fmt.Errorf("%w: transmit buffer %d has a descriptor marked for writing", ErrRing, c.ID)
	}
	c.Len += uint64(size)
	// What follows a cut is touched by nobody, and one descriptor can run over hundreds of regions: it is not translated.
	for left := uint64(size); left > 0 && !c.Cut; {
		p, n := q.memory.Translate(addr, left, &q.hint)
		if n == 0 {
			return fmt.Errorf("%w: buffer %d: %d bytes at guest address %#x are not in guest memory"+notShared, ErrRing, c.ID, left, addr)
		}
		b.add(c, p, n, chainPieces*q.maxChain)
		addr += n
		left -= n
	}
	return nil
}

// tooLong says that a chain has more descriptors than any frame needs, or no end.
func (q *Queue) tooLong(id uint16) error {
	return fmt.Errorf("%w: buffer %d has more than %d descriptors, those without bytes included: a frame needs fewer; or is it a loop?", ErrRing, id,
		q.maxChain)
}

// indirectTable checks the table that an indirect descriptor names and returns its place and number of entries.
func (q *Queue) indirectTable(id uint16, addr uint64, size uint32) (guestmem.Ptr, int, error) {
	if !q.indirect {
		return 0, 0, fmt.Errorf("%w: buffer %d is indirect, which was not negotiated", ErrRing, id)
	}
	if size == 0 || size%descSize != 0 || int(size/descSize) > q.maxTable {
		return 0, 0, fmt.Errorf("%w: buffer %d: indirect table of %d bytes (want a multiple of 16 up to %d)", ErrRing, id, size,
			q.maxTable*descSize)
	}
	p, n := q.memory.Translate(addr, uint64(size), &q.hint)
	if n != uint64(size) {
		return 0, 0, fmt.Errorf("%w: buffer %d: indirect table at guest address %#x is not in guest memory"+notShared, ErrRing, id, addr)
	}
	return p, int(size / descSize), nil
}
