package forward

import (
	"fmt"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/policy"
	"vhostkit/switchd/ticks"
	"vhostkit/switchd/virtio"
)

// The slow path takes what the fast path does not: chains, indirect tables, requests, groups, unknown addresses, full rings, ports that are not
// plain. What is asked of a frame, and in which order, is accept and then route; a new rule about what a port sends is asked there.

// accept makes a frame of a chain, or gives the reason why it is dropped.
func (w *worker) accept(r *transmitRing, c *virtio.Chain, f *frame) (Reason, bool) {
	if reason, ok := w.describe(r, c, f); !ok { // what was offered: bounds and requests; the header is copied
		return reason, false
	}
	return w.checkSource(r, f) // who sends: the address is the port's, or becomes so
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

// maxPieces is how many segments the frames of one burst may ask to be cut into, by the switch or by a receiver: work that their sender leaves to
// others. The burst ends before the frame that would go beyond; one frame alone may have more.
const maxPieces = 1024

// forwardBurst decides for each frame of the burst and delivers them, those for one destination together, and returns how many it has dealt with.
// A frame for everybody is delivered when all frames before it are, so that a receiver gets a sender's frames in their order.
func (w *worker) forwardBurst(r *transmitRing, n int) int {
	var bytes uint64
	w.requests, w.taken = false, 0
	w.lastTo, w.lastAt = 0, bridge.None
	end := ticks.Now() + w.pace.floodTime
	for i, pieces := 0, 0; i < n; i++ {
		w.taken = i + 1 // what is looked at is counted, whatever happens: see abandon
		f := &w.frames[i]
		if reason, ok := w.accept(r, &w.burst.Chains[i], f); !ok {
			r.c.drops[reason].Add(1)
			continue
		}
		if pieces += f.request.pieces(f.length); pieces > maxPieces && i > 0 {
			w.taken--
			break
		}
		bytes += uint64(f.length)
		w.requests = w.requests || !f.request.none()
		switch to, reason := w.route(r, f); to {
		case toNobody:
			r.c.drops[reason].Add(1)
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

// describe turns a chain into a frame: bounds and requests checked, the header copied once.
func (w *worker) describe(r *transmitRing, c *virtio.Chain, f *frame) (Reason, bool) {
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
	return 0, true
}

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
		w.addresses = r.port.domain.Table()
		return 0, true
	}
}

// route says where a frame goes: to a port, toUplink or toFlood; or toNobody, and the reason why it is dropped. It asks the address table, then
// the port's rules.
func (w *worker) route(r *transmitRing, f *frame) (bridge.Destination, Reason) {
	to, local := f.destination(), r.port.rules.Local
	if to.IsMulticast() {
		if local != policy.LocalNever {
			return toFlood, 0
		}
		return w.outside(DropNoUplink)
	}
	if to == f.source() {
		return toNobody, DropOwnAddress
	}
	if to != w.lastTo {
		w.lastTo, w.lastAt = to, w.addresses.Find(to)
	}
	at := w.lastAt
	switch {
	case at == r.port.id.destination():
		return toNobody, DropOwnAddress
	case at == bridge.None || local == policy.LocalNever:
		return w.outside(DropNoDestination)
	case local == policy.LocalHardware:
		if f.loop = w.sw.loopVLAN(f.source(), r.port.id, to, portAt(at)); f.loop != 0 {
			return w.outside(DropNoDestination)
		}
	}
	return at, 0
}

// outside is where a frame goes that no port here gets: nowhere, and why, if there is no uplink.
func (w *worker) outside(reason Reason) (bridge.Destination, Reason) {
	if w.out == nil {
		return toNobody, reason
	}
	return toUplink, 0
}
