package frontend

import "vhostkit/switchd/guestmem"

// A driver that has enough to do wants no calls. WantCalls and Returned are what one needs that polls for a while and then sleeps; without
// WantCalls the device may always call.

// Values of the packed ring's event suppression (virtio 1.2, 2.8.10).
const (
	callsOn   = 0
	callsOff  = 1
	callsDesc = 2 // at a position, with EVENT_IDX
)

// WantCalls asks the device to call when it returns the next buffer, or not to. After asking for calls the caller must look with Returned once
// more before it sleeps: this runs the fence that belongs between the two.
func (r *Ring) WantCalls(want bool, fence *guestmem.Fence) {
	r.managed = true
	switch {
	case r.packed:
		r.suppressPacked(want)
	case r.eventIdx && want:
		(r.Driver() + 4 + guestmem.Ptr(2*r.Size)).StoreU16(r.used)
	case r.eventIdx: // an index that was passed a moment ago
		(r.Driver() + 4 + guestmem.Ptr(2*r.Size)).StoreU16(r.used - 1)
	case want:
		r.Driver().StoreU16(0)
	default:
		r.Driver().StoreU16(1)
	}
	fence.Full()
}

func (r *Ring) suppressPacked(want bool) {
	word := uint32(callsOff << 16)
	if want && r.eventIdx {
		word = callsDesc<<16 | uint32(r.used)
		if r.usedWrap {
			word |= 1 << 15
		}
	} else if want {
		word = callsOn << 16
	}
	r.Driver().StoreReleaseU32(word)
}

// Returned tells whether the device has returned a buffer that was not taken yet.
func (r *Ring) Returned() bool {
	if !r.packed {
		return uint16(r.Device().LoadAcquireU32()>>16) != r.used
	}
	flags := uint16((r.Desc() + guestmem.Ptr(16*int(r.used)) + 8).LoadAcquireU64() >> 48)
	return (flags>>7&1 == 1) == r.usedWrap && (flags>>15&1 == 1) == r.usedWrap
}
