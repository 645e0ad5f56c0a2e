package ixgbe

import (
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/go-multierror"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// rxRing is a receive queue of the NIC. One software queue polls it.
type rxRing struct {
	desc     *rxDescriptors
	registry pci.Registers
	tail     uint32 // offset of RDT
	strip    bool   // the NIC takes tags off
	next     uint32 // free running: the descriptor to look at
	refilled uint32 // free running: descriptors before this one are the NIC's again
	partial  bool   // inside a frame of several descriptors
	lost     *counters
	addr     [rxSize]guestmem.Ptr
	iova     [rxSize]uint64

	drain  atomic.Bool // what comes is for nobody until the ring was empty once
	number int         // of the queue
	ring   pci.DMA
	buffers
}

// refillBatch is how many descriptors are given back at a time: a write to the device costs as much as many frames.
const refillBatch = 32

func newRxRing(dev pci.Device, registers pci.Registers, number, bufferSize int, strip bool, lost *counters) (*rxRing, error) {
	r := &rxRing{registry: registers, tail: regs.RDT(number), number: number, strip: strip, lost: lost}
	var err error
	if r.ring, err = dev.AllocDMA(rxSize * regs.DescSize); err != nil {
		return nil, fmt.Errorf("descriptors of receive queue %d: %w", number, err)
	}
	r.desc = rxView(r.ring)
	if err := r.allocate(dev, rxSize, bufferSize); err != nil {
		return nil, multierror.Append(fmt.Errorf("receive queue %d: %w", number, err), r.close(dev)).ErrorOrNil()
	}
	copy(r.addr[:], r.buffers.addr)
	copy(r.iova[:], r.buffers.iova)
	r.reset()
	return r, nil
}

// reset makes every descriptor the NIC's. The queue must be disabled.
func (r *rxRing) reset() {
	for i := range r.desc {
		r.desc[i] = descriptor{lo: r.iova[i]}
	}
	r.next, r.refilled, r.partial = 0, 0, false
}

// receive fills frames with what has come. They are valid until the next call.
func (r *rxRing) receive(frames []uplink.RxFrame) int {
	if r.next-r.refilled >= refillBatch {
		r.refill()
	}
	n := 0
	for n < len(frames) {
		i := r.next & rxMask
		status := atomic.LoadUint64(&r.desc[i].hi)
		if status&rxDone == 0 {
			break
		}
		r.next++
		if status&rxGoodMask != rxEnd || r.partial {
			r.skip(status)
			continue
		}
		f := &frames[n]
		f.Addr, f.Len = r.addr[i], uint32(status>>regs.RXD_LEN_SHIFT)&0xffff
		if f.Stripped = r.strip && status&rxTag != 0; f.Stripped {
			f.Tagged, f.VLAN = true, ether.VLAN(status>>regs.RXD_VLAN_SHIFT)&0x0fff
		} else {
			f.VLAN, f.Tagged = tagOf(f)
		}
		n++
	}
	return n
}

// tagOf reads a tag that is still in its place.
func tagOf(f *uplink.RxFrame) (ether.VLAN, bool) {
	if f.Len < ether.HeaderLen+ether.TagLen {
		return 0, false
	}
	return ether.Tag(f.Addr.Bytes(ether.HeaderLen + ether.TagLen))
}

// skip counts a frame that is no good: broken, or in several pieces because it is longer than a buffer.
func (r *rxRing) skip(status uint64) {
	end := status&rxEnd != 0
	switch {
	case !end:
		r.partial = true
	case r.partial:
		r.partial = false
		r.lost.truncated.Add(1)
	default:
		r.lost.broken.Add(1)
	}
}

// refill gives the descriptors that were used up back to the NIC, with their buffers. The last one stays: a tail that meets the head would
// mean an empty ring (7.1.9).
func (r *rxRing) refill() {
	for ; r.refilled != r.next; r.refilled++ {
		i := r.refilled & rxMask
		r.desc[i] = descriptor{lo: r.iova[i]}
	}
	r.registry.Write32(r.tail, (r.next-1)&rxMask)
}

// discard takes everything off the ring; true when it was empty.
func (r *rxRing) discard(frames []uplink.RxFrame) bool {
	for range rxSize / len(frames) {
		n := r.receive(frames)
		if n == 0 {
			return true
		}
		r.lost.discarded.Add(uint64(n))
	}
	return false
}

// unread counts the frames that came and were not taken off the ring.
func (r *rxRing) unread() (frames uint64) {
	for at := r.next; at != r.next+rxSize; at++ {
		status := atomic.LoadUint64(&r.desc[at&rxMask].hi)
		if status&rxDone == 0 {
			break
		}
		if status&rxEnd != 0 {
			frames++
		}
	}
	return frames
}

func (r *rxRing) close(dev pci.Device) error {
	if err := r.free(dev); err != nil {
		return err
	}
	return dev.FreeDMA(r.ring)
}
