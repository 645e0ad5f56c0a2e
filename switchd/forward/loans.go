package forward

import (
	"time"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/virtio"
)

// With Config.ZeroCopy the uplink's device reads frames from where their senders have them. The buffers of such a burst are held, and with
// them all that the guest sent after it, until the device has read them: buffers are returned in the order in which they came, which is
// what a restart relies on. A ring that has lent nothing knows that by one look a burst.

const (
	// maxLoans is how many bursts of a ring may be lent at a time. What comes then is copied, and held with the last one.
	maxLoans = 64
	// drainLimit is how long a ring that stops waits for the device. Longer is a link that is away or a queue that hangs.
	drainLimit = 200 * time.Millisecond
)

// loans are what a transmit ring has lent, oldest first. They belong to the worker that has the ring.
type loans struct {
	list       [maxLoans]lentBurst
	head, tail uint32
	current    uplink.InFlight // of the burst that is being forwarded
	fresh      uplink.InFlight // that the uplink fills in
}

// lentBurst is a loan and the buffers to be returned with it.
type lentBurst struct {
	loan   uplink.InFlight
	chains int
}

// newLoans makes a transmit queue ready for lending; nil where nothing is lent.
func (s *Switch) newLoans(q *virtio.Queue) *loans {
	if s.mapper == nil {
		return nil
	}
	q.AllowHold()
	return &loans{}
}

func (l *loans) outstanding() bool { return l != nil && (l.head != l.tail || l.current.Ring != nil) }

// lend gives the uplink a loan to fill in; nil if the frames of this send must be copied. A burst needs two entries at most: frames that two
// rings of the device have.
func (l *loans) lend() *uplink.InFlight {
	if l == nil || l.tail-l.head > maxLoans-2 {
		return nil
	}
	l.fresh = uplink.InFlight{}
	return &l.fresh
}

// lent takes up what a send has lent.
func (l *loans) lent() {
	if l == nil || l.fresh.Ring == nil {
		return
	}
	if l.current.Ring != nil && l.current.Ring != l.fresh.Ring {
		l.push(0)
	}
	l.current = l.fresh
	l.fresh = uplink.InFlight{}
}

func (l *loans) push(chains int) {
	l.list[l.tail%maxLoans] = lentBurst{l.current, chains}
	l.tail++
	l.current = uplink.InFlight{}
}

// hold tells whether a burst of so many buffers, all of it forwarded, must be held, and notes it.
func (l *loans) hold(chains int) bool {
	switch {
	case l == nil, l.current.Ring == nil && l.head == l.tail:
		return false
	case l.current.Ring == nil: // lent nothing itself
		l.list[(l.tail-1)%maxLoans].chains += chains
	default:
		l.push(chains)
	}
	return true
}

// due is how many buffers can be returned now.
func (l *loans) due() (chains int) {
	for ; l.head != l.tail && l.list[l.head%maxLoans].loan.Done(); l.head++ {
		chains += l.list[l.head%maxLoans].chains
		l.list[l.head%maxLoans] = lentBurst{}
	}
	return chains
}

// returnDue returns the buffers that the device is done with.
func (w *worker) returnDue(r *transmitRing) int {
	n := r.loans.due()
	if n > 0 {
		r.queue.Return(n)
		w.returned(r)
	}
	return n
}

// complete returns a burst's buffers, or holds them.
func (w *worker) complete(r *transmitRing, n int) {
	if r.loans.hold(n) {
		r.queue.Hold(&w.burst, n)
	} else {
		r.queue.Complete(&w.burst, n)
	}
	w.returned(r)
}

// settle waits for the device to be done with what rings have lent that no worker has any more, and returns their buffers.
func (p *Port) settle(gone []*transmitRing) {
	limit := time.Now().Add(drainLimit)
	for _, r := range gone {
		for !r.settled() {
			if time.Now().After(limit) {
				p.undrained = true
				break
			}
			time.Sleep(20 * time.Microsecond)
		}
	}
}

// settled returns what is due, and tells whether that was all. The memory may be gone: then there is nobody to return it to.
func (r *transmitRing) settled() bool {
	l := r.loans
	if !l.outstanding() {
		return true
	}
	n := l.due()
	_ = r.port.Touch(func() { r.queue.Return(n) })
	if l.head == l.tail && l.current.Done() { // left by a burst that a fault ended
		l.current = uplink.InFlight{}
	}
	return !l.outstanding()
}

// relend takes back what memory of the port the device can read, and lends it the port's present one.
func (p *Port) relend(m *guestmem.Memory) {
	s := p.sw
	if s.mapper == nil || m == p.lentMemory {
		return
	}
	if p.lentMemory != nil {
		if err := s.mapper.UnmapDMA(p.id.pool(), !p.undrained); err != nil {
			s.emit(Event{Kind: EventNotUnmapped, Port: p.id, Err: err})
		}
	}
	p.lentMemory, p.undrained = m, false
	if m == nil {
		return
	}
	if err := s.mapper.MapDMA(p.id.pool(), m); err != nil {
		s.emit(Event{Kind: EventNotLent, Port: p.id, Err: err})
	}
}
