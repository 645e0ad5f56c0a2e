package forward

import (
	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
)

// deliverSorted delivers a list in which frames may ask for something that the receiver does not take: those are finished in software, one
// by one, without changing the order.
func (w *worker) deliverSorted(rx *receiveRing, d *delivery, lost *counters) {
	list := d.list
	for from := 0; from < len(list); {
		to := from
		for to < len(list) && rx.accept.take(&w.frames[list[to]].request) {
			to++
		}
		if to > from {
			w.deliverRun(rx, d, list[from:to], lost)
		} else {
			w.deliverFinished(rx, d, list[from], lost)
			to++
		}
		from = to
	}
	d.list = nil
}

// deliverFinished copies a frame into the worker's memory, completes its checksum or cuts it into segments there, and delivers the result.
func (w *worker) deliverFinished(rx *receiveRing, d *delivery, index uint8, lost *counters) {
	f := w.frames[index]
	whole := w.scratch.bytes()[:f.length]
	if !w.gather(&f, whole) {
		lost.drops[DropFault].Add(1)
		return
	}
	if f.request.segments() {
		arrived := d.arrived
		all := true
		err := ether.Segment(whole, int(f.request.csumStart), int(f.request.gsoSize), w.scratch.bytes()[scratchHalf:], func(s []byte) {
			before := d.arrived
			w.deliverScratch(rx, d, scratchHalf, len(s), lost)
			all = all && d.arrived > before
		})
		if err != nil {
			lost.drops[DropBadHeader].Add(1)
		}
		d.arrived = arrived
		if all && err == nil {
			d.arrived++
		}
		return
	}
	if err := ether.CompleteChecksum(whole, f.request.csumStart, f.request.csumOffset); err != nil {
		lost.drops[DropBadHeader].Add(1)
		return
	}
	w.deliverScratch(rx, d, 0, f.length, lost)
}

// gather copies a frame out of its sender's memory; false if that is gone.
func (w *worker) gather(f *frame, whole []byte) (ok bool) {
	defer func() {
		if fault := guestmem.Recovered(recover()); fault != nil {
			w.blame(fault, w.source.port)
			ok = false
		}
	}()
	f.header(whole)
	guestmem.ReadSegments(whole[headerLen:], f.segments, f.offset)
	return true
}

// deliverScratch delivers the frame of that length at an offset of the scratch memory.
func (w *worker) deliverScratch(rx *receiveRing, d *delivery, at, length int, lost *counters) {
	w.scratch.segment[0] = guestmem.Segment{Addr: w.scratch.addr(at), Len: uint32(length)}
	f := &w.frames[scratchFrame]
	*f = frame{segments: w.scratch.segment[:], offset: headerLen, length: length}
	f.loadHeader(f.segments, 0)
	w.deliverRun(rx, d, w.scratch.index[:], lost)
}
