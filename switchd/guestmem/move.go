package guestmem

// Move is one frame's way from a sender's buffer into a receiver's. Both were checked by a translation: Src holds Len bytes, Dst holds
// Skip+Len. It is laid out for the assembly.
type Move struct {
	Dst  Ptr    // start of the receiver's buffer: the virtio-net header
	Src  Ptr    // the frame's first byte, behind the sender's header
	Low  uint64 // bytes 0..7 of the Ethernet header as they were judged
	High uint64 // bytes 6..13
	Len  uint32 // of the frame, at least 14
	Skip uint32 // virtio-net header: 10 or 12 bytes
}

// oneBuffer is the tail of a 12-byte virtio-net header: num_buffers is 1 (virtio 1.2, 5.1.6.1).
const oneBuffer = 1 << 16

// MoveAll makes the moves: an empty virtio-net header with num_buffers 1, the Ethernet header as it was judged, and the rest from the
// sender's memory. A header that already holds the right bytes is left alone: writing it would take the cache line away from the guest's
// processor for nothing.
func MoveAll(moves []Move) {
	if len(moves) > 0 {
		moveAll(moves)
	}
}

func moveGeneric(moves []Move) {
	for i := range moves {
		m := &moves[i]
		if m.Skip == 12 {
			if m.Dst.LoadU64() != 0 || (m.Dst+8).LoadU32() != oneBuffer {
				m.Dst.StoreU64(0)
				(m.Dst + 8).StoreU32(oneBuffer)
			}
		} else if m.Dst.LoadU64() != 0 || (m.Dst+8).LoadU16() != 0 {
			m.Dst.StoreU64(0)
			(m.Dst + 8).StoreU16(0)
		}
		p := m.Dst + Ptr(m.Skip)
		p.StoreU64(m.Low)
		(p + 6).StoreU64(m.High)
		if n := int(m.Len) - 14; n > 0 {
			Copy(p+14, m.Src+14, n)
		}
	}
}
