package ixgbe

import (
	"sync/atomic"

	"vhostkit/switchd/uplink"
)

// queue is what one worker uses: it receives from its share of the pools, and sends on a ring of its own or on the sender's pool's.
type queue struct {
	nic   *NIC
	index int
	tx    *txRing
	rings atomic.Pointer[[]*rxRing] // of the active pools; replaced as a whole
	turn  int                       // the ring to begin with

	receiving atomic.Uint32 // 1 while Receive runs; the watchdog takes it
}

// burst is what one ring may give in its turn, or its share of the call if that is more, so that the others have theirs.
const burst = 32

// FD is -1: the rings are polled.
func (q *queue) FD() int { return -1 }

// Receive takes frames from the rings in turns.
func (q *queue) Receive(frames []uplink.RxFrame) (int, error) {
	if !q.receiving.CompareAndSwap(0, 1) {
		return 0, nil // the device is being set up again
	}
	rings := *q.rings.Load()
	n, share := 0, max(burst, len(frames)/max(len(rings), 1))
	for range rings {
		if q.turn++; q.turn >= len(rings) {
			q.turn = 0
		}
		r := rings[q.turn]
		if r.drain.Load() {
			q.discard(r, frames[n:])
			continue
		}
		if n += r.receive(frames[n:min(n+share, len(frames))]); n == len(frames) {
			break
		}
	}
	q.receiving.Store(0)
	return n, nil
}

// discard throws away what is in the ring of a port that has left.
func (q *queue) discard(r *rxRing, frames []uplink.RxFrame) {
	if len(frames) == 0 || r.discard(frames) {
		r.drain.Store(len(frames) == 0)
	}
}

// Send sends frames of one port. Without a link nothing is read in place: nobody knows when it would come back.
func (q *queue) Send(frames []uplink.TxFrame, inFlight *uplink.InFlight) (int, error) {
	if len(frames) == 0 {
		return 0, nil
	}
	n := q.nic
	if n.down.Load() {
		n.lost.down.Add(uint64(len(frames)))
		return 0, nil
	}
	pool := frames[0].Pool
	var from *mappedMemory
	if inFlight != nil && n.carrier.Load() {
		from = n.mappedFor(pool)
	}
	return n.txRing(q, int(pool)).send(frames, from, inFlight)
}

// txRing chooses the ring: the NIC knows a frame's sender by it, for its own switch and for anti-spoofing.
func (n *NIC) txRing(q *queue, pool int) *txRing {
	if n.poolRings && pool >= 0 && pool < len(n.pools) {
		if t := n.pools[pool].tx.Load(); t != nil {
			return t
		}
	}
	return q.tx
}
