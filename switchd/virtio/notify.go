package virtio

import (
	"math"

	"golang.org/x/sys/unix"
)

// needEvent is virtio 1.2, 2.7.10: whether moving from old to new passes event.
func needEvent(event, new, old uint16) bool { return new-event-1 < new-old }

// CallDue tells whether buffers were returned since it was last asked and the driver wants to know, so that Call is due. The caller has run a full
// fence since the last Complete: the driver's wish must be read after our index is visible, or a driver that is about to sleep is missed.
func (q *Queue) CallDue() bool {
	if q.returned == 0 || q.CallFD() < 0 {
		return false
	}
	wanted := false
	if q.packed {
		wanted = q.callWantedPacked()
	} else {
		wanted = q.callWantedSplit()
	}
	q.callIndex, q.callWrap, q.returned = q.used, q.usedWrap, 0
	return wanted
}

// callIsSocket marks a socket in what Queue.call holds; the descriptor's number is below it.
const callIsSocket = 1 << 32

// SetCall replaces what wakes the driver, also while the queue is in use: an eventfd or, with socket, a connected AF_UNIX socket; -1 is none.
// Whoever uses the queue may still be using the descriptor from before, which its owner therefore closes later.
func (q *Queue) SetCall(fd int, socket bool) {
	word := int64(uint32(int32(fd)))
	if socket {
		word |= callIsSocket
	}
	q.call.Store(word)
}

// CallDescriptor is what wakes the driver, and whether that is a socket (SetCall); -1 if there is none. The vhost device owns it.
func (q *Queue) CallDescriptor() (fd int, socket bool) {
	word := q.call.Load()
	return int(int32(uint32(word))), word&callIsSocket != 0
}

// CallFD is CallDescriptor without the kind.
func (q *Queue) CallFD() int {
	fd, _ := q.CallDescriptor()
	return fd
}

// Call wakes the driver. A full eventfd counter, or a full socket, means that it has been woken already.
func (q *Queue) Call() {
	if fd, socket := q.CallDescriptor(); socket {
		SignalSocket(fd)
	} else {
		_, _ = unix.Write(fd, eventOne[:])
	}
}

// SignalSocket wakes whoever reads from the other end of a call socket with the bytes that an eventfd takes. It never blocks, whatever flags
// the file has, and a peer that is gone raises no SIGPIPE.
func SignalSocket(fd int) { _ = unix.Sendto(fd, eventOne[:], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) }

// eventOne is the 1 that is added to an eventfd's counter, in host order (eventfd(2)).
var eventOne = [8]byte{1}

func (q *Queue) callWantedSplit() bool {
	if q.eventIdx {
		return q.returned > math.MaxUint16 || needEvent(q.usedEvent(), q.used, q.callIndex)
	}
	return q.driver.LoadU16()&availNoInterrupt == 0
}

// callWantedPacked reads the driver event suppression area, {le16 off_wrap; le16 flags}, in one load (virtio 1.2, 2.8.10).
func (q *Queue) callWantedPacked() bool {
	word := q.driver.LoadAcquireU32()
	switch word >> 16 & 3 {
	case ringEventEnable:
		return true
	case ringEventDesc:
		// After more than one round the positions do not tell what was passed: the driver was quick to give buffers again.
		if !q.eventIdx || q.returned > q.size {
			return true
		}
		offset, wrap := uint16(word)&0x7fff, word>>15&1 != 0
		old := q.callIndex
		if q.used <= old {
			old -= uint16(q.size)
		}
		if wrap != q.usedWrap {
			offset -= uint16(q.size)
		}
		return needEvent(offset, q.used, old)
	default:
		return false
	}
}

// Start readies a queue that was just set up: it asks the driver not to kick, and takes the position of a split ring from the ring itself.
// After a crash of the back-end the front-end's idea of the position (vhost-user SET_VRING_BASE) may be old, while used.idx says what was
// returned; as buffers are returned in order, that is where to go on: those that were held are read once more.
//
// A packed ring does not tell; there the journal does, if it fits what the ring shows.
func (q *Queue) Start() {
	if q.packed {
		q.resumePacked()
	} else {
		q.used = uint16(q.device.LoadAcquireU32() >> 16)
		q.avail, q.callIndex = q.used, q.used
	}
	q.WantKicks(false)
}

// WantKicks asks the driver to kick when it makes buffers available, or not to. After asking for kicks the caller must run a full fence
// and look with Available once more before it sleeps: a buffer that came in between is not announced.
func (q *Queue) WantKicks(want bool) {
	q.noKick = !want
	switch {
	case q.packed && want:
		q.device.StoreReleaseU32(ringEventEnable << 16)
	case q.packed:
		q.device.StoreReleaseU32(ringEventDisable << 16)
	case q.eventIdx && want:
		// With event index the flag must stay 0; not moving avail_event is what keeps the driver quiet (2.7.10).
		q.setAvailEvent(q.avail)
	case !q.eventIdx:
		q.publishUsedIndex()
	}
}

// Available tells whether the driver has made buffers available that were not completed yet.
func (q *Queue) Available() bool {
	if q.packed {
		return isAvailable(uint16(q.loadPacked(q.avail)>>48), q.availWrap)
	}
	return q.availIndex() != q.avail
}
