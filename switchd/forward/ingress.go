package forward

import (
	"encoding/binary"
	"math/bits"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
)

// ingress moves one burst of at most limit buffers out of a transmit ring and returns how many it held; twice as many if the slow path has
// some, too. A fault on the sender's memory ends the burst: it was the sender's own, and nothing of it is returned.
func (w *worker) ingress(r *transmitRing, limit int) (n int) {
	if r.port.broken.Load() {
		return 0
	}
	w.source = r
	defer w.recoverRing(r)
	if r.loans != nil {
		n = w.returnDue(r)
	}
	w.addresses = r.port.domain.Table()
	if r.plain {
		taken, more := w.fastBurst(r, limit)
		n += taken
		if !more || r.port.broken.Load() {
			return n
		}
	}
	return n + w.slowBurst(r, limit)
}

// recoverRing contains a fault while a transmit ring was worked on.
func (w *worker) recoverRing(r *transmitRing) {
	if fault := guestmem.Recovered(recover()); fault != nil {
		w.abandon(r)
		w.blame(fault, r.port)
	}
}

// abandon counts what was taken of a burst that a fault ended: what was not delivered yet, and the frame that was being looked at, is dropped.
func (w *worker) abandon(r *transmitRing) {
	if w.taken > 0 {
		left := 1
		for i := range w.groups.n {
			left += w.groups.groups[i].n
		}
		w.lose(nil, r.c, DropFault, left)
		r.c.packets.Add(uint64(w.taken))
		w.taken = 0
	}
	w.groups.reset()
}

// blame stops the port whose memory a fault lies in; suspect, if it is in nobody's; none, if it is the switch's own.
func (w *worker) blame(fault *guestmem.Fault, suspect *Port) {
	if replace := w.sw.config.Replace; replace != nil && replace(fault.Addr) {
		return
	}
	for _, v := range w.table.ports {
		if v != nil && v.memory != nil && v.memory.Contains(fault.Addr) {
			suspect = v.port
		}
	}
	suspect.breakDown(fault)
}

// loadHeader copies the Ethernet header. The guest may rewrite its buffer at any time; nothing below looks at those bytes again.
func (f *frame) loadHeader(segments []guestmem.Segment, skip int) {
	if int(segments[0].Len) >= skip+headerLen {
		p := segments[0].Addr + guestmem.Ptr(skip)
		f.low, f.high = p.LoadU64(), (p + 6).LoadU64()
		return
	}
	var header [headerLen]byte
	guestmem.ReadSegments(header[:], segments, skip)
	f.setHeader(&header)
}

func (f *frame) setHeader(h *[headerLen]byte) {
	f.low, f.high = binary.LittleEndian.Uint64(h[0:]), binary.LittleEndian.Uint64(h[6:])
}

// header writes the header into h, which must have 14 bytes.
func (f *frame) header(h []byte) {
	binary.LittleEndian.PutUint64(h[0:], f.low)
	binary.LittleEndian.PutUint64(h[6:], f.high)
}

func (f *frame) destination() ether.MAC { return ether.MAC(bits.ReverseBytes64(f.low) >> 16) }
func (f *frame) source() ether.MAC      { return ether.MAC(bits.ReverseBytes64(f.high) >> 16) }
func (f *frame) etherType() uint16      { return uint16(bits.ReverseBytes64(f.high)) }
