package ixgbe

import (
	"encoding/binary"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/uplink"
)

// segment cuts a TCP frame that asks for it and puts the segments into the ring; false if there is no room for all of them. A request that
// makes no sense is the frame's loss only.
//
// The NIC could do it (7.2.4), but a frame is copied on its way to the device anyway, and 64 KiB would need buffers that are otherwise empty.
func (t *txRing) segment(f *uplink.TxFrame) bool {
	vlan, tagged := insertable(f)
	whole, ok := t.gather(f, tagged)
	if !ok {
		t.lost.rejected.Add(1)
		return true
	}
	start := int(f.Offload.CsumStart)
	if !tagged {
		start += int(f.HeaderLen) - ether.HeaderLen
	}
	size := int(f.Offload.GSOSize)
	if pieces := len(whole)/max(size, ether.MinSegment) + 1; pieces+1 >= txSize {
		t.lost.rejected.Add(1) // more than there can ever be: not the ring's fault
		return true
	} else if pieces+1 > int(t.room()) {
		return false
	}
	err := ether.Segment(whole, start, size, t.scratch[longestTSO:], func(piece []byte) {
		if len(piece) > t.longest {
			t.lost.rejected.Add(1)
			return
		}
		slot, position := t.prepare(vlan)
		length := max(len(piece), txMinFrame)
		out := t.addr[slot].Bytes(length)
		clear(out[copy(out, piece):])
		t.commit(position, length, tagged)
	})
	if err != nil {
		t.lost.rejected.Add(1)
	}
	return true
}

// gather copies a frame into the scratch memory, without a tag that the NIC inserts.
func (t *txRing) gather(f *uplink.TxFrame, tagged bool) ([]byte, bool) {
	header := int(f.HeaderLen)
	length := f.Len
	if tagged {
		length, header = length-ether.TagLen, header-ether.TagLen
	}
	if length > longestTSO || length < header {
		return nil, false
	}
	whole := t.scratch[:length]
	copy(whole, f.Header[:header])
	if tagged {
		binary.BigEndian.PutUint16(whole[12:], binary.BigEndian.Uint16(f.Header[16:]))
	}
	guestmem.ReadSegments(whole[header:], f.Segs, 0)
	return whole, true
}
