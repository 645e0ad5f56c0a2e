package forward

import (
	"fmt"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// deliverGroups delivers what the groups hold and empties them.
func (w *worker) deliverGroups(r *transmitRing) {
	for i := range w.groups.n {
		g := &w.groups.groups[i]
		list := g.frames[:g.n]
		if g.to == toUplink {
			r.c.delivered.Add(uint64(w.toUplink(r, list, r.c)))
		} else if v := w.table.at(g.to); v != nil {
			r.c.delivered.Add(uint64(w.deliver(v, r.pair, list, r.c)))
		} else {
			w.lose(nil, r.c, DropNotReady, g.n)
		}
	}
	w.groups.reset()
}

// flood gives a frame to every other port and to the uplink. It waits for none of them: a receiver that keeps the switch waiting would hold up
// frames of everybody.
func (w *worker) flood(r *transmitRing, i int) {
	w.source, w.pace.flooded = r, true
	one := [1]uint8{uint8(i)}
	w.loss = DropNoDestination
	reached := 0
	for _, v := range w.table.flood {
		if v.port != r.port {
			reached += w.deliver(v, r.pair, one[:], nil)
		}
	}
	if w.out != nil {
		reached += w.toUplink(r, one[:], nil)
	}
	if reached > 0 {
		r.c.delivered.Add(1)
		r.c.copies.Add(uint64(reached - 1))
	} else {
		r.c.drops[w.loss].Add(1)
	}
}

// deliver puts frames (indices into w.frames) into a receive ring of a port, waiting for buffers as rx-retry says, and returns how many
// arrived. A queue pair of the sender always reaches the same pair of the receiver, which keeps the order. What is lost is counted at the
// receive ring, if there is one, and at the sender; of a frame for everybody (sender nil) there is no more to lose than at this receiver, and
// nothing to wait for.
func (w *worker) deliver(v *portState, pair int, list []uint8, sender *counters) int {
	switch {
	case len(v.rx) == 0 || v.port.broken.Load():
		w.lose(nil, sender, DropNotReady, len(list))
		return 0
	case w.sourceBroken(): // what is left of the burst must not fault frame by frame
		w.lose(v.ring(pair).c, sender, DropFault, len(list))
		return 0
	}
	rx := v.ring(pair)
	d := delivery{list: list, patient: sender != nil && w.sw.config.RxRetry}
	if w.requests {
		w.deliverSorted(rx, &d, sender)
	} else {
		w.deliverRun(rx, &d, list, sender)
	}
	return d.arrived
}

// sourceBroken tells whether the port whose frames are being forwarded was stopped. The uplink is none.
func (w *worker) sourceBroken() bool { return w.source != nil && w.source.port.broken.Load() }

// deliverRun delivers a list with its retries and counts what is left over.
func (w *worker) deliverRun(rx *receiveRing, d *delivery, list []uint8, sender *counters) {
	d.list, d.small = list, 0
	w.enqueue(rx, d)
	if len(d.list) > 0 && d.patient && !d.busy {
		w.retry(rx, d)
	}
	w.lose(rx.c, sender, DropTooSmall, d.small)
	if w.sourceBroken() || rx.port.broken.Load() {
		w.lose(rx.c, sender, DropFault, len(d.list))
	} else if d.busy {
		w.lose(rx.c, sender, DropRingBusy, len(d.list))
	} else {
		w.lose(rx.c, sender, DropRingFull, len(d.list))
	}
}

// delivery is what is left to deliver and what became of the rest.
type delivery struct {
	list    []uint8
	patient bool // the receiver may be waited for
	busy    bool // another worker does not let go of the ring
	arrived int
	small   int // frames that do not fit the receiver's buffers
	bytes   uint64
}

// enqueue moves as many frames as the ring takes now and wakes the guest. It owns the ring meanwhile. A fault ends it: frames not yet
// published stay in the list.
func (w *worker) enqueue(rx *receiveRing, d *delivery) {
	if d.busy = !w.own(rx); d.busy {
		return
	}
	defer w.recoverDelivery(rx)
	for more := true; more && len(d.list) > 0; {
		arrived, bytes := d.arrived, d.bytes
		more = w.fill(rx, d)
		if d.arrived > arrived {
			rx.stalled.Store(false)
			w.arrived(rx, d.arrived-arrived, d.bytes-bytes)
		}
	}
}

// own waits until the ring is this worker's, as long as that may take (owner.take). Where there is one worker only, it always is.
func (w *worker) own(rx *receiveRing) bool { return w.alone || rx.owner.take() }

// tryOwn is own without waiting.
func (w *worker) tryOwn(rx *receiveRing) bool { return w.alone || rx.owner.try() }

// disown gives the ring back.
func (w *worker) disown(rx *receiveRing) {
	if !w.alone {
		rx.owner.giveBack()
	}
}

// recoverDelivery gives the ring back and contains a fault. If the fault is the sender's, its burst ends here too.
func (w *worker) recoverDelivery(rx *receiveRing) {
	fault := guestmem.Recovered(recover())
	w.disown(rx)
	if fault != nil {
		w.blame(fault, rx.port)
	}
}

// fill serves one burst of the receiver's buffers and publishes it. It reports whether the ring may have more. Nothing has arrived, and nothing is
// taken off the list, before all of it is published: a fault leaves the delivery as it was.
func (w *worker) fill(rx *receiveRing, d *delivery) bool {
	b := &w.rxBurst
	b.Reset(rx.queue)
	used, full, after, unfit := 0, false, *d, rx.unfitting()
	for len(after.list) > 0 {
		f := &w.frames[after.list[0]]
		need, chains := rx.header+f.length, 1
		if unfit > 0 && need >= unfit {
			chains = -1
		} else if used == b.N || b.Chains[used].Len < uint64(need) || b.Chains[used].Cut {
			chains = w.reserve(rx, used, len(after.list), f)
		}
		if chains == 0 {
			full = b.N < virtio.BurstSize || used == 0
			break
		}
		if chains > 0 {
			rx.write(b, used, chains, f)
			used += chains
			after.arrived++
			after.bytes += uint64(f.length)
			unfit = 0 // of the buffer behind nothing is known
		} else {
			after.small++
			unfit = need
		}
		after.list = after.list[1:]
	}
	rx.queue.Complete(b, used)
	rx.unfit, rx.unfitAt = unfit, rx.queue.Completed()
	*d = after
	return !full
}

// unfitting gives the least length, header included, of which it is known that the ring's next buffer cannot hold it; 0 if nothing is known. Such a
// buffer stays where it is, and is not to be looked at again for each frame of anybody.
func (rx *receiveRing) unfitting() int {
	if rx.unfitAt != rx.queue.Completed() {
		return 0
	}
	return rx.unfit
}

// reserve finds how many chains from position used on the frame needs, fetching more as required: 0 when there are not enough now, -1 when
// the receiver's buffers can never hold it.
func (w *worker) reserve(rx *receiveRing, used, frames int, f *frame) int {
	b := &w.rxBurst
	need := uint64(rx.header + f.length)
	for have, n := uint64(0), 0; ; n++ {
		if used+n == b.N && !w.fetchMore(rx, frames) {
			if used == 0 && b.N == virtio.BurstSize {
				return -1
			}
			return 0
		}
		c := &b.Chains[used+n]
		if have += c.Len; c.Cut {
			return -1
		}
		if have >= need {
			return n + 1
		}
		if !rx.merge {
			return -1
		}
	}
}

// fetchMore asks the ring for more chains; at least as many as there are frames to come.
func (w *worker) fetchMore(rx *receiveRing, frames int) bool {
	b := &w.rxBurst
	had := b.N
	n, err := rx.queue.Fetch(b, had+frames)
	if err != nil {
		rx.port.breakDown(fmt.Errorf("receive queue: %w", err))
	}
	return n > had
}

// write puts a frame into n chains: virtio-net header, our copy of the Ethernet header, payload from the sender's memory.
func (rx *receiveRing) write(b *virtio.Burst, first, n int, f *frame) {
	c := &b.Chains[first]
	last := &b.Chains[first+n-1]
	segments := b.Segments[c.First : last.First+last.Count]
	rx.writeHeader(segments, uint16(n), f)
	if s := &segments[0]; int(s.Len) == rx.header && len(segments) > 1 {
		writeFrame(segments[1:], 0, f)
	} else {
		writeFrame(segments, rx.header, f)
	}
	left := uint64(rx.header + f.length)
	for i := first; i < first+n; i++ {
		c := &b.Chains[i]
		part := min(left, c.Len)
		c.Written = uint32(part)
		left -= part
	}
}

// writeFrame writes the frame's bytes from offset skip of the segments on.
func writeFrame(segments []guestmem.Segment, skip int, f *frame) {
	payload := f.length - headerLen
	s := &segments[0]
	if int(s.Len) >= skip+headerLen {
		p := s.Addr + guestmem.Ptr(skip)
		p.StoreU64(f.low)
		(p + 6).StoreU64(f.high)
		if from := &f.segments[0]; int(s.Len) >= skip+f.length && int(from.Len) >= f.offset+payload {
			guestmem.Copy(p+headerLen, from.Addr+guestmem.Ptr(f.offset), payload)
			return
		}
	} else {
		var header [headerLen]byte
		f.header(header[:])
		guestmem.WriteSegments(segments, skip, header[:])
	}
	guestmem.CopySegments(segments, skip+headerLen, f.segments, f.offset, payload)
}

// writeHeader writes the virtio-net header (virtio 1.2, 5.1.6.1). One that already holds the right bytes is left alone: writing it would
// take the cache line away from the guest's processor for nothing.
func (rx *receiveRing) writeHeader(segments []guestmem.Segment, buffers uint16, f *frame) {
	if s := &segments[0]; int(s.Len) >= rx.header && f.request.none() {
		if rx.header == 12 {
			tail := uint32(buffers) << 16
			if s.Addr.LoadU64() != 0 || (s.Addr+8).LoadU32() != tail {
				s.Addr.StoreU64(0)
				(s.Addr + 8).StoreU32(tail)
			}
		} else if s.Addr.LoadU64() != 0 || (s.Addr+8).LoadU16() != 0 {
			s.Addr.StoreU64(0)
			(s.Addr + 8).StoreU16(0)
		}
		return
	}
	header := f.request.header(buffers)
	guestmem.WriteSegments(segments, 0, header[:rx.header])
}
