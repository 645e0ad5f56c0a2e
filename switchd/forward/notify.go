package forward

import (
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// What has to be done for a ring after buffers were returned to it, but only once a round: count, and call the driver if it wants that. One
// full fence for all the rings of a round is much cheaper than one for each: a fence waits until every store before it has reached the
// other cores.

// firstNotices is what the lists have room for before they grow, which they do at most to the number of rings.
const firstNotices = 256

// notices are the rings that buffers were returned to in this round.
type notices struct {
	tx []*transmitRing
	rx []*receiveRing
}

func (n *notices) init() {
	n.tx, n.rx = make([]*transmitRing, 0, firstNotices), make([]*receiveRing, 0, firstNotices)
}

// arrived notes what was delivered into a ring. The caller owns it.
func (w *worker) arrived(rx *receiveRing, frames int, bytes uint64) {
	rx.packets += uint64(frames)
	rx.bytes += bytes
	if rx.noted { // also if by another worker: it looks when it owns the ring, and so after us
		return
	}
	rx.noted = true
	w.notices.rx = append(w.notices.rx, rx)
}

// returned notes that buffers went back to a sender.
func (w *worker) returned(r *transmitRing) {
	if r.queue.CallFD() >= 0 {
		w.notices.tx = append(w.notices.tx, r)
	}
}

// notify does what is due. It comes at the end of a round, and before the worker waits for anything.
func (w *worker) notify() {
	n := &w.notices
	if len(n.tx)+len(n.rx) == 0 {
		return
	}
	w.fence.Full()
	for next := 0; next < len(n.tx); {
		next = w.notifySenders(next)
	}
	busy := n.rx[:0] // rings of which another worker does not let go: looked at again in the next round
	for next := 0; next < len(n.rx); {
		next = w.notifyReceivers(next, &busy)
	}
	n.tx, n.rx = n.tx[:0], busy
	w.signals.Flush()
}

// call wakes a guest, at the next flush of the signals.
func (w *worker) call(q *virtio.Queue, c *counters) {
	if fd, socket := q.CallDescriptor(); socket {
		virtio.SignalSocket(fd)
	} else {
		w.signals.Add(fd)
	}
	c.calls.Add(1)
}

// notifySenders deals with the transmit rings from one on, up to a fault on guest memory, and returns where to go on.
func (w *worker) notifySenders(next int) (at int) {
	at = next
	defer func() {
		if fault := guestmem.Recovered(recover()); fault != nil {
			w.blame(fault, w.notices.tx[at].port)
			at++
		}
	}()
	for ; at < len(w.notices.tx); at++ {
		if r := w.notices.tx[at]; r.queue.CallDue() && !r.port.broken.Load() {
			w.call(r.queue, r.c)
		}
	}
	return at
}

// notifyReceivers is the same for the receive rings.
func (w *worker) notifyReceivers(next int, busy *[]*receiveRing) (at int) {
	at = next
	defer func() {
		if fault := guestmem.Recovered(recover()); fault != nil {
			rx := w.notices.rx[at]
			w.disown(rx)
			w.blame(fault, rx.port)
			at++
		}
	}()
	for ; at < len(w.notices.rx); at++ {
		rx := w.notices.rx[at]
		if !w.own(rx) {
			*busy = append(*busy, rx)
			continue
		}
		rx.noted = false
		packets, bytes := rx.packets, rx.bytes
		rx.packets, rx.bytes = 0, 0
		rx.c.packets.Add(packets) // before anything that may fault
		rx.c.bytes.Add(bytes)
		due := rx.queue.CallDue()
		w.disown(rx)
		if due && !rx.port.broken.Load() {
			w.call(rx.queue, rx.c)
		}
	}
	return at
}
