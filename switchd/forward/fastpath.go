package forward

import (
	"math/bits"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// The fast path is the way of nearly all frames: one buffer, nothing left to others, a known sender, one receiver among the ports. It
// works in stages over the burst (fetch, look at the headers, fetch receive buffers, move, publish), with little to remember of a frame.
// Whatever is not that simple ends the fast path; the frame and those behind it go the slow path, so that a sender's frames keep their order.
type fastPath struct {
	views   virtio.Views // what the sender offers
	rxViews virtio.Views // what the receivers offer, one after the other
	frames  [virtio.BurstSize]fastFrame
	moves   [virtio.BurstSize]guestmem.Move
}

// fastFrame is a frame on the fast path.
type fastFrame struct {
	low, high uint64 // the Ethernet header, loaded once
	addr      guestmem.Ptr
	length    uint32
}

// fastBurst forwards what is simple of a burst of at most limit and returns how many buffers it took. more tells that chains are left which are not
// simple.
func (w *worker) fastBurst(r *transmitRing, limit int) (n int, more bool) {
	x := &w.fast
	n, more = r.queue.FetchViews(x.views[:limit])
	if n == 0 {
		return 0, more
	}
	guestmem.Prefetch(&x.views[0].Addr, n, virtio.ViewSize, r.header)
	taken := w.judge(r, n)
	if taken == 0 {
		return 0, true
	}
	bytes := uint64(0)
	for i := range x.frames[:taken] {
		bytes += uint64(x.frames[i].length)
	}
	delivered := w.moveGroups(r)
	w.groups.reset()
	r.c.delivered.Add(uint64(delivered))
	r.c.packets.Add(uint64(taken))
	r.c.bytes.Add(bytes)
	w.pace.moved += int(bytes)
	if r.loans.hold(taken) {
		r.queue.HoldViews(x.views[:taken])
	} else {
		r.queue.CompleteViews(x.views[:taken])
	}
	w.returned(r)
	return taken, more || taken < n
}

// judge decides where frames go, and groups them by destination. It stops at the first that is not for the fast path and returns how
// many are.
func (w *worker) judge(r *transmitRing, n int) (taken int) {
	n, varied := w.loadHeaders(r, n)
	switch {
	case n == 0:
		return 0
	case varied:
		return w.judgeEach(r, n)
	}
	p, now := &w.fast.frames[0], w.sw.clock.Load()
	if source := p.source(); source != r.lastSource || now != r.lastSeen {
		if !w.addresses.Refresh(source, r.port.id.destination()) {
			return 0
		}
		r.lastSource, r.lastSeen = source, now
	}
	g := w.groupFor(r, w.addresses.Find(p.to()))
	if g == nil {
		return 0
	}
	g.n = copy(g.frames[:n], counting[:])
	return n
}

// counting is the list of the frames of a burst that all go the same way.
var counting = func() (list [virtio.BurstSize]uint8) {
	for i := range list {
		list[i] = uint8(i)
	}
	return list
}()

// loadHeaders loads the header of each frame, once: all that follows is decided on that copy. It returns how many frames have one and ask for
// nothing, and whether they have different addresses.
func (w *worker) loadHeaders(r *transmitRing, n int) (loaded int, varied bool) {
	x := &w.fast
	skip, limit := uint32(r.header), uint32(w.sw.config.MaxFrame)
	difference := uint64(0)
	for ; loaded < n; loaded++ {
		v := &x.views[loaded&(virtio.BurstSize-1)]
		length := v.Len - skip
		if v.Len < skip+headerLen || length > limit {
			break
		}
		if r.offloads && v.Addr.LoadU16() != 0 { // flags and gso_type (virtio 1.2, 5.1.6.1)
			break
		}
		p := &x.frames[loaded&(virtio.BurstSize-1)]
		p.addr, p.length = v.Addr+guestmem.Ptr(skip), length
		p.low, p.high = p.addr.LoadU64(), (p.addr + 6).LoadU64()
		difference |= p.low ^ x.frames[0].low | (p.high^x.frames[0].high)<<16 // all of the addresses: the EtherType is at the top
	}
	return loaded, difference != 0
}

// judgeEach is judge for frames of different addresses. It looks the addresses up itself, with everything that stays the same in registers: two
// look-ups a frame are most of what a frame costs here.
func (w *worker) judgeEach(r *transmitRing, n int) (taken int) {
	x, t := &w.fast, w.addresses
	slots, multiplier, shift := t.Parts()
	at := r.port.id.destination()
	own := bridge.FreshEntry(at)
	var g *group
	for ; taken < n; taken++ {
		p := &x.frames[taken&(virtio.BurstSize-1)]
		source, to := p.high<<16, p.low<<16 // keys
		if slots[source*multiplier>>(shift&63)].Load() != source|own && !t.Refresh(p.source(), at) {
			break
		}
		slot := to * multiplier >> (shift & 63)
		word := slots[slot].Load()
		if word&bridge.KeyMask != to {
			_, word = t.Probe(to, int(slot))
		}
		dest := bridge.DestinationOf(word)
		if g == nil || g.to != dest {
			if g = w.groupFor(r, dest); g == nil {
				break
			}
		}
		g.frames[g.n&(virtio.BurstSize-1)] = uint8(taken)
		g.n++
	}
	return taken
}

func (p *fastFrame) source() ether.MAC { return ether.MAC(bits.ReverseBytes64(p.high) >> 16) }
func (p *fastFrame) to() ether.MAC     { return ether.MAC(bits.ReverseBytes64(p.low) >> 16) }

// groupFor gives the group of the frames to a port, nil if the fast path does not lead there.
func (w *worker) groupFor(r *transmitRing, to bridge.Destination) *group {
	if w.table.at(to) == nil || to == r.port.id.destination() {
		return nil
	}
	return w.groups.group(to)
}

// moveGroups moves the burst's frames into the next buffers of their receivers and returns how many arrived. Those that find no buffer that holds
// them go the slow path, with its retries and its counting.
func (w *worker) moveGroups(r *transmitRing) (arrived int) {
	w.source = r
	groups := w.groups.groups[:w.groups.n]
	arrived = w.moveTogether(r, groups)
	for i := range groups {
		g := &groups[i]
		if g.busy {
			arrived += w.moveTogether(r, groups[i:i+1])
		}
		if g.moved < g.n {
			arrived += w.moveRest(r, g.to, g.frames[g.moved:g.n])
		}
	}
	return arrived
}

// moveRest gives frames to a port in the slow path.
func (w *worker) moveRest(r *transmitRing, to bridge.Destination, list []uint8) int {
	for _, i := range list {
		w.toSlow(int(i))
	}
	w.requests = false
	return w.deliver(w.table.ports[to], r.pair, list, r.c)
}

// toSlow describes a frame of the fast path as the slow path has it.
func (w *worker) toSlow(i int) {
	p := &w.fast.frames[i]
	w.oneSegment[i][0] = guestmem.Segment{Addr: p.addr, Len: p.length}
	w.frames[i] = frame{low: p.low, high: p.high, segments: w.oneSegment[i][:], offset: headerLen, length: int(p.length)}
}

// moveTogether fills and publishes as many of the receivers' buffers as there are frames, in stages over all groups: what the next stage needs
// of one is on its way while another is worked on. It owns all their rings meanwhile; one that another worker has is left out and marked, as two
// workers must not wait for each other, unless it is the only one. A fault ends it: what is not published then has not arrived.
func (w *worker) moveTogether(r *transmitRing, groups []group) (arrived int) {
	defer w.recoverTogether(r, groups)
	x, n := &w.fast, 0
	for i := range groups {
		n += w.prepareMoves(r, &groups[i], n, len(groups) == 1)
	}
	if n == 0 {
		return 0
	}
	guestmem.MoveAll(x.moves[:n])
	for i := range groups {
		g := &groups[i]
		if g.rx == nil {
			continue
		}
		if g.moved > 0 {
			g.rx.queue.CompleteViews(x.rxViews[g.first : g.first+g.moved])
			if g.rx.stalled.Load() {
				g.rx.stalled.Store(false)
			}
			w.arrived(g.rx, g.moved, g.bytes)
			arrived += g.moved
		}
		w.disown(g.rx)
		g.rx = nil
	}
	return arrived
}

// prepareMoves finds buffers for a group's frames and describes the moves, from a place in the fast path's list on. It returns how many there are. With
// wait it waits for the ring.
func (w *worker) prepareMoves(r *transmitRing, g *group, first int, wait bool) int {
	g.first, g.busy = first, false
	v := w.table.ports[g.to]
	if len(v.rx) == 0 || v.port.broken.Load() {
		return 0
	}
	rx := v.ring(r.pair)
	if wait && !w.own(rx) {
		return 0
	} else if !wait && !w.tryOwn(rx) {
		g.busy = true
		return 0
	}
	g.rx = rx
	x := &w.fast
	views, moves := x.rxViews[first:first+g.n], x.moves[first:first+g.n]
	n, _ := rx.queue.FetchViews(views)
	skip, bytes := uint32(rx.header), uint64(0)
	for i := range views[:n] {
		v, p := &views[i], &x.frames[g.frames[i&(virtio.BurstSize-1)]&(virtio.BurstSize-1)]
		if v.Len < skip+p.length {
			n = i
			break
		}
		v.Len = skip + p.length
		m := &moves[i]
		m.Dst, m.Src, m.Low, m.High, m.Len, m.Skip = v.Addr, p.addr, p.low, p.high, p.length, skip
		bytes += uint64(p.length)
	}
	g.moved, g.bytes = n, bytes
	return n
}

// recoverTogether contains a fault in moveTogether, and gives back what rings it still owns. Nothing was published of theirs.
func (w *worker) recoverTogether(r *transmitRing, groups []group) {
	fault := guestmem.Recovered(recover())
	for i := range groups {
		if g := &groups[i]; g.rx != nil {
			w.disown(g.rx)
			g.rx = nil
			if fault != nil {
				g.moved = 0
			}
		}
	}
	if fault != nil {
		w.blame(fault, r.port)
	}
}
