package forward

import (
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// notice is a ring whose driver may have to be called for what was returned to it in this round.
type notice struct {
	queue *virtio.Queue
	port  *Port
	c     *counters
	rx    *receiveRing // to be owned meanwhile; nil for the worker's own transmit rings
}

// maxNotices is how many a round collects before it deals with them.
const maxNotices = 256

// note remembers to look whether the driver of a ring wants to be called. One full fence for all the rings of a round is much cheaper
// than one for each: a fence waits until every store before it has reached the other cores.
func (w *worker) note(n notice) {
	if n.queue.CallFD() < 0 {
		return
	}
	if last := len(w.notices) - 1; last >= 0 && w.notices[last].queue == n.queue {
		return
	}
	if len(w.notices) == cap(w.notices) {
		w.notify()
	}
	w.notices = append(w.notices, n)
}

// notify calls the drivers that want it. It comes before the worker waits for anything.
func (w *worker) notify() {
	if len(w.notices) == 0 {
		return
	}
	w.fence.Full()
	for next := 0; next < len(w.notices); {
		next = w.notifyFrom(next)
	}
	w.notices = w.notices[:0]
}

// notifyFrom deals with the notices from one on, up to a fault on guest memory, and returns where to go on.
func (w *worker) notifyFrom(next int) (at int) {
	at = next
	defer func() {
		if fault := guestmem.Recovered(recover()); fault != nil {
			n := &w.notices[at]
			if n.rx != nil {
				n.rx.owned.Store(0)
			}
			w.blame(fault, n.port)
			at++
		}
	}()
	for ; at < len(w.notices); at++ {
		n := &w.notices[at]
		if n.rx == nil {
			if n.queue.CallDue() && !n.port.broken.Load() {
				w.call(n.queue, n.port, n.c)
			}
			continue
		}
		n.rx.own()
		due := n.queue.CallDue()
		n.rx.owned.Store(0)
		if due && !n.port.broken.Load() {
			w.call(n.queue, n.port, n.c)
		}
	}
	return at
}
