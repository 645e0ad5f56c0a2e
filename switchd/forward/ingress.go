package forward

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/ticks"
	"vhostkit/switchd/virtio"
)

// Destinations that are not ports.
const (
	toUplink = -1
	toFlood  = -2
	toNobody = -3
)

// ingress moves one burst of at most limit buffers out of a transmit ring and returns how many it held; twice as many if the slow way has some,
// too. A fault on the sender's memory ends the burst: it was the sender's own, and nothing of it is returned.
func (w *worker) ingress(r *transmitRing, limit int) (n int) {
	if r.port.broken.Load() {
		return 0
	}
	w.source = r
	defer w.recoverRing(r)
	if r.loans != nil {
		n = w.returnDue(r)
	}
	if w.sw.config.VM2VM == VM2VMSoftware {
		taken, more := w.fastBurst(r, limit)
		n += taken
		if !more || r.port.broken.Load() {
			return n
		}
	}
	return n + w.slowBurst(r, limit)
}

// slowBurst moves one burst of frames of any kind, at most limit.
func (w *worker) slowBurst(r *transmitRing, limit int) int {
	b := &w.burst
	b.Reset(r.queue)
	n, err := r.queue.Fetch(b, limit)
	if n > 0 {
		n = w.forwardBurst(r, n)
		w.complete(r, n)
	}
	if err != nil {
		r.port.breakDown(fmt.Errorf("transmit queue %d: %w", r.pair, err))
	}
	return n
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

// maxPieces is how many segments the frames of one burst may ask to be cut into, by the switch or by a receiver: work that their sender leaves to
// others. The burst ends before the frame that would go beyond; one frame alone may have more.
const maxPieces = 1024

// forwardBurst decides for each frame of the burst and delivers them, those for one destination together, and returns how many it has dealt with.
// A frame for everybody is delivered when all frames before it are, so that a receiver gets a sender's frames in their order.
func (w *worker) forwardBurst(r *transmitRing, n int) int {
	var bytes uint64
	w.requests, w.taken = false, 0
	w.lastTo, w.lastPort = 0, -1
	end := ticks.Now() + w.pace.floodTime
	for i, pieces := 0, 0; i < n; i++ {
		w.taken = i + 1 // what is looked at is counted, whatever happens: see abandon
		f := &w.frames[i]
		if reason, ok := w.inspect(r, &w.burst.Chains[i], f); !ok {
			r.c.drops[reason].Add(1)
			continue
		}
		if pieces += f.request.pieces(f.length); pieces > maxPieces && i > 0 {
			w.taken--
			break
		}
		bytes += uint64(f.length)
		w.requests = w.requests || !f.request.none()
		switch to := w.route(r, f); to {
		case toNobody:
		case toFlood:
			w.deliverGroups(r)
			if w.flood(r, i); ticks.Now() > end { // the rest is for the next burst
				i = n
			}
		default:
			if !w.groups.add(to, i) {
				r.c.drops[DropNotReady].Add(1)
			}
		}
	}
	w.deliverGroups(r)
	n, w.taken = w.taken, 0
	r.c.packets.Add(uint64(n))
	r.c.bytes.Add(bytes)
	w.pace.moved += int(bytes)
	return n
}

// inspect turns a chain into a frame: bounds, the header copied once, the source address checked and learned.
func (w *worker) inspect(r *transmitRing, c *virtio.Chain, f *frame) (Reason, bool) {
	segments := w.burst.Of(c)
	if c.Len < uint64(r.header) || len(segments) == 0 {
		return DropBadHeader, false
	}
	length := c.Len - uint64(r.header)
	limit := uint64(w.sw.config.MaxFrame)
	f.request, f.loop = offload{}, 0
	if r.offloads {
		if f.request = readOffload(segments, r.header); f.request.segments() {
			limit = maxGSOFrame
		}
	}
	switch {
	case length < headerLen:
		return DropRunt, false
	case length > limit || c.Cut:
		return DropOversized, false
	case !r.leaves.allow(&f.request) || !f.request.plausible(int(length), w.sw.config.MaxFrame):
		return DropBadHeader, false
	}
	skip := r.header
	if int(segments[0].Len) == skip { // the header in a descriptor of its own, as older drivers do
		segments, skip = segments[1:], 0
	}
	f.loadHeader(segments, skip)
	f.segments, f.offset, f.length = segments, skip+headerLen, int(length)
	if f.request.segments() && f.destination().IsMulticast() { // TCP has no groups, and each receiver would have to cut
		return DropBadHeader, false
	}
	return w.checkSource(r, f)
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

// checkSource learns the source address. Frames nearly always come from the address that the frame before came from.
func (w *worker) checkSource(r *transmitRing, f *frame) (Reason, bool) {
	source := f.source()
	if now := w.sw.clock.Load(); source == r.lastSource && now == r.lastSeen {
		return 0, true
	} else if source == 0 || source.IsMulticast() {
		return DropBadSource, false
	} else if reason, ok := w.sw.learn(r.port, source); !ok {
		return reason, false
	} else {
		r.lastSource, r.lastSeen = source, now
		w.addresses = w.sw.fdb.table.Load()
		return 0, true
	}
}

// route decides where a frame goes, and counts it if that is nowhere.
func (w *worker) route(r *transmitRing, f *frame) int {
	to := f.destination()
	switch {
	case to.IsMulticast():
		if w.sw.config.VM2VM != VM2VMDisabled {
			return toFlood
		}
	case to == f.source():
		r.c.drops[DropOwnAddress].Add(1)
		return toNobody
	default:
		port := w.lastPort
		if to != w.lastTo {
			_, port = w.addresses.find(to)
			w.lastTo, w.lastPort = to, port
		}
		if port == r.port.id {
			r.c.drops[DropOwnAddress].Add(1)
			return toNobody
		}
		if port >= 0 && w.sw.config.VM2VM == VM2VMHardware {
			f.loop = w.sw.loopVLAN(f.source(), r.port.id, to, port)
		}
		if port >= 0 && w.sw.config.VM2VM != VM2VMDisabled && f.loop == 0 {
			return port
		}
	}
	if w.out == nil {
		if to.IsMulticast() {
			r.c.drops[DropNoUplink].Add(1)
		} else {
			r.c.drops[DropNoDestination].Add(1)
		}
		return toNobody
	}
	return toUplink
}
