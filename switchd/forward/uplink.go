package forward

import (
	"encoding/binary"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/policy"
	"vhostkit/switchd/uplink"
)

// uplinkQueue is a queue pair of the uplink. It has one sender at a time; one worker receives from it.
type uplinkQueue struct {
	owner      owner
	queue      uplink.Queue
	complained bool // its failure was reported; the receiving worker's
}

// openUplink gives the worker its queues: it receives from every queue whose number falls to it, and sends on one that it shares with as
// few others as possible.
func (w *worker) openUplink() {
	u := w.sw.config.Uplink
	if u == nil {
		return
	}
	workers := len(w.sw.config.Cores)
	for i := w.index; i < u.Queues(); i += workers {
		w.uplink = append(w.uplink, w.sw.uplinkQueue(i))
	}
	w.out = w.sw.uplinkQueue(w.index % u.Queues())
}

// uplinkQueue makes each queue once. Run calls it through newWorker, one worker after the other.
func (s *Switch) uplinkQueue(i int) *uplinkQueue {
	for len(s.uplinkQueues) <= i {
		s.uplinkQueues = append(s.uplinkQueues, &uplinkQueue{queue: s.config.Uplink.Queue(len(s.uplinkQueues))})
	}
	return s.uplinkQueues[i]
}

// toUplink sends frames (indices into w.frames) to the outside, tagged with the port's VLAN unless they carry a tag already, and returns how
// many went. What is lost is counted at the uplink and at the sender, as deliver does.
func (w *worker) toUplink(r *transmitRing, list []uint8, sender *counters) int {
	p, tx := r.port, &w.sw.uplinkC.tx
	ready, ok := w.prepareAll(r, list)
	if !ok {
		w.lose(tx, sender, DropFault, len(list))
		return 0
	}
	w.lose(tx, sender, DropForeignVLAN, len(list)-ready)
	sent, err := w.send(w.sending[:ready], r.loans.lend())
	r.loans.lent()
	bytes := 0
	for i := range sent {
		bytes += w.sending[i].Len
	}
	tx.packets.Add(uint64(sent))
	tx.bytes.Add(uint64(bytes))
	if err != nil && sent < ready { // the frame's memory is gone
		p.breakDown(err)
		w.lose(tx, sender, DropFault, ready-sent)
	} else {
		w.lose(tx, sender, DropUplinkFull, ready-sent)
	}
	return sent
}

// prepareAll describes frames to the uplink, and returns how many may leave; false if their sender's memory is gone.
func (w *worker) prepareAll(r *transmitRing, list []uint8) (ready int, ok bool) {
	defer func() {
		if fault := guestmem.Recovered(recover()); fault != nil {
			w.blame(fault, r.port)
			ok = false
		}
	}()
	w.segments = w.segments[:0]
	for _, index := range list {
		w.sending[ready].Pool = r.port.id.pool()
		if w.prepare(&w.sending[ready], &w.frames[index], &r.port.rules) {
			ready++
		}
	}
	return ready, true
}

func (w *worker) send(frames []uplink.TxFrame, inFlight *uplink.InFlight) (int, error) {
	if !w.out.owner.take() {
		return 0, nil
	}
	defer w.out.owner.giveBack()
	return w.out.queue.Send(frames, inFlight)
}

// prepare describes a frame to the uplink: our header with the tag, the payload where it is. A tag that the guest has put there stays, as in the
// DPDK's vhost sample, but is copied like the header, and must not be another port's VLAN: false if it is.
func (w *worker) prepare(t *uplink.TxFrame, f *frame, rules *policy.Port) bool {
	f.header(t.Header[:])
	t.HeaderLen, t.Len = headerLen+ether.TagLen, f.length
	offset, shift := f.offset, uint16(0)
	if f.loop != 0 {
		ether.PutTag(t.Header[:], f.loop)
		t.Len += ether.TagLen
	} else if kind := f.etherType(); kind != ether.TypeVLAN && kind != ether.TypeQinQ {
		ether.PutTag(t.Header[:], rules.VLAN)
		t.Len += ether.TagLen
	} else if f.length < headerLen+ether.TagLen {
		t.HeaderLen = headerLen
	} else {
		guestmem.ReadSegments(t.Header[headerLen:], f.segments, offset)
		offset += ether.TagLen
		shift = ether.TagLen
		if own := ether.VLAN(binary.BigEndian.Uint16(t.Header[headerLen:]) & 0x0fff); !rules.MayTag(own) {
			return false
		}
	}
	t.Offload = uplink.Offload{}
	if r := &f.request; !r.none() {
		t.Offload = uplink.Offload{
			Flags: r.flags, GSOType: r.gsoType, HdrLen: r.hdrLen - min(shift, r.hdrLen), GSOSize: r.gsoSize,
			CsumStart: r.csumStart - min(shift, r.csumStart), CsumOffset: r.csumOffset,
		}
	}
	t.Segs = w.payload(f, offset)
	return true
}

// payload lists where the frame lies from that offset on, without the bytes before it.
func (w *worker) payload(f *frame, offset int) []guestmem.Segment {
	first := len(w.segments)
	skip, left := offset, f.length-headerLen-(offset-f.offset)
	for _, s := range f.segments {
		if left == 0 {
			break
		}
		if skip >= int(s.Len) {
			skip -= int(s.Len)
			continue
		}
		n := min(int(s.Len)-skip, left)
		w.segments = append(w.segments, guestmem.Segment{Addr: s.Addr + guestmem.Ptr(skip), Len: uint32(n)})
		skip, left = 0, left-n
	}
	return w.segments[first:]
}

// fromUplink moves one burst from the outside to the ports. A frame reaches a port if it carries the port's VLAN and is addressed to it, or
// to a group; other frames go nowhere.
func (w *worker) fromUplink(u *uplinkQueue) int {
	w.source, w.requests = nil, false
	n, err := u.queue.Receive(w.received[:])
	if err != nil && !u.complained {
		u.complained = true
		w.sw.emit(Event{Kind: EventUplinkFailed, Err: err})
	}
	c := &w.sw.uplinkC.rx
	bytes := 0
	for i := range n {
		r := &w.received[i]
		bytes += int(r.Len)
		if to, ok := w.admit(r, i, c); ok && !w.groups.add(to, i) {
			c.drops[DropNotReady].Add(1)
		}
	}
	for i := range w.groups.n {
		g := &w.groups.groups[i]
		if v := w.table.at(g.to); v != nil {
			c.delivered.Add(uint64(w.deliver(v, w.index, g.frames[:g.n], c)))
		} else {
			c.drops[DropNotReady].Add(uint64(g.n))
		}
	}
	w.groups.reset()
	if n > 0 {
		c.packets.Add(uint64(n))
		c.bytes.Add(uint64(bytes))
	}
	return n
}

// admit makes w.frames[i] of a received frame and finds its port by the VLAN.
func (w *worker) admit(r *uplink.RxFrame, i int, c *counters) (bridge.Destination, bool) {
	f := &w.frames[i]
	segment := &w.oneSegment[i]
	*segment = [1]guestmem.Segment{{Addr: r.Addr, Len: r.Len}}
	f.segments, f.offset, f.length, f.request = segment[:], headerLen, int(r.Len), offload{}
	least := uint32(headerLen + ether.TagLen)
	if r.Stripped {
		least = headerLen
	}
	if r.Len < least || !r.Tagged {
		c.drops[DropNoDestination].Add(1)
		return 0, false
	}
	f.loadHeader(f.segments, 0)
	id := w.sw.config.portOf(r.VLAN)
	v := w.table.at(id.destination())
	if v == nil {
		c.drops[DropNoDestination].Add(1)
		return 0, false
	}
	p := v.port
	if to := f.destination(); to.IsMulticast() {
		if ownLooped(f, p) {
			c.drops[DropOwnAddress].Add(1)
			return 0, false
		}
	} else if !p.rules.Promiscuous && p.domain.Table().Find(to) != id.destination() {
		c.drops[DropNoDestination].Add(1)
		return 0, false
	}
	if !p.rules.KeepTag && !r.Stripped {
		f.strip(r.Addr)
	}
	return id.destination(), true
}

// strip takes the tag out: the header gets the EtherType behind the tag, the payload begins after it.
func (f *frame) strip(addr guestmem.Ptr) {
	inner := uint64((addr + headerLen + ether.TagLen - 2).LoadU16())
	f.high = f.high&0x0000ffffffffffff | inner<<48
	f.offset += ether.TagLen
	f.length -= ether.TagLen
}
