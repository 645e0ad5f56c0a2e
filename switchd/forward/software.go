package forward

import (
	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
)

// deliverSorted delivers a list in which frames may ask for something that the receiver does not take: those are finished in software, one
// by one, without changing the order.
func (w *worker) deliverSorted(rx *receiveRing, d *delivery, sender *counters) {
	list := d.list
	for from := 0; from < len(list); {
		to := from
		for to < len(list) && rx.accept.allow(&w.frames[list[to]].request) {
			to++
		}
		if to > from {
			w.deliverRun(rx, d, list[from:to], sender)
		} else {
			w.deliverFinished(rx, d, list[from], sender)
			to++
		}
		from = to
	}
	d.list = nil
}

// deliverFinished copies a frame into the worker's memory, completes its checksum or cuts it into segments there, and delivers the result.
func (w *worker) deliverFinished(rx *receiveRing, d *delivery, index uint8, sender *counters) {
	f := w.frames[index]
	whole := w.scratch.bytes()[:f.length]
	if !w.gather(&f, whole) {
		w.lose(rx.c, sender, DropFault, 1)
		return
	}
	if f.request.segments() {
		w.deliverSegments(rx, d, &f.request, whole, sender)
		return
	}
	if err := ether.CompleteChecksum(whole, f.request.csumStart, f.request.csumOffset); err != nil {
		w.lose(rx.c, sender, DropBadHeader, 1)
		return
	}
	w.deliverScratch(rx, d, 0, f.length, sender)
}

// deliverSegments cuts a frame into segments, none of them longer than frames may be, and delivers them. The frame has arrived if all did. It is
// never one for everybody (see describe), which would be cut for each receiver anew.
func (w *worker) deliverSegments(rx *receiveRing, d *delivery, o *offload, whole []byte, sender *counters) {
	before, pieces := d.arrived, 0
	room := w.scratch.bytes()[scratchHalf : scratchHalf+w.sw.config.MaxFrame]
	err := ether.Segment(whole, int(o.csumStart), int(o.gsoSize), room, func(s []byte) {
		pieces++
		w.deliverScratch(rx, d, scratchHalf, len(s), nil)
	})
	arrived := d.arrived - before
	d.arrived = before
	switch {
	case err != nil:
		w.lose(rx.c, sender, DropBadHeader, 1)
	case arrived == pieces:
		d.arrived++
		sender.copies.Add(uint64(arrived - 1))
	default: // the pieces that were lost are counted at the receiver
		w.lose(nil, sender, w.loss, 1)
		sender.copies.Add(uint64(arrived))
	}
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
func (w *worker) deliverScratch(rx *receiveRing, d *delivery, at, length int, sender *counters) {
	w.scratch.segment[0] = guestmem.Segment{Addr: w.scratch.addr(at), Len: uint32(length)}
	f := &w.frames[scratchFrame]
	*f = frame{segments: w.scratch.segment[:], offset: headerLen, length: length}
	f.loadHeader(f.segments, 0)
	w.deliverRun(rx, d, w.scratch.index[:], sender)
}
