package ixgbe

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// hungLooks is how many looks in a row a transmit ring may have work and make no progress.
const hungLooks = 3

func (n *NIC) interval() time.Duration {
	if n.config.Watch > 0 {
		return n.config.Watch
	}
	return time.Second
}

// progress is what the watchdog remembers of a transmit ring.
type progress struct {
	head  uint32
	looks int
}

// watch looks after the NIC until ctx ends: counters before they overflow, the link, and rings that hang.
func (n *NIC) watch(ctx context.Context) {
	defer close(n.done)
	ticker := time.NewTicker(n.interval())
	defer ticker.Stop()
	seen := map[*txRing]*progress{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			n.look(seen)
		}
	}
}

func (n *NIC) look(seen map[*txRing]*progress) {
	n.inspect(seen)
	n.unmapStale()
}

func (n *NIC) inspect(seen map[*txRing]*progress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken {
		n.recover("it did not come back")
		return
	}
	n.expire()
	n.collect()
	n.watchLink()
	if !n.carrier.Load() {
		clear(seen) // what waits for the link does not hang
		if n.owes() {
			n.recover("the link is gone, and guests wait for the buffers that the NIC was to send from")
		}
		return
	}
	for _, t := range n.txRings() {
		if why := n.hung(t, seen); why != "" {
			n.recover(why)
			clear(seen)
			return
		}
	}
}

// hung tells why a ring is thought to hang, or "".
func (n *NIC) hung(t *txRing, seen map[*txRing]*progress) string {
	p := seen[t]
	if p == nil {
		p = &progress{}
		seen[t] = p
	}
	head := n.r.Read32(regs.TDH(t.number))
	if head == t.sent.Load()&txMask || head != p.head {
		p.head, p.looks = head, 0
		return ""
	}
	if p.looks++; p.looks < hungLooks {
		return ""
	}
	return fmt.Sprintf("transmit queue %d has not moved from descriptor %d (register %s) for %v", t.number, head, regs.Name(regs.TDH(t.number)),
		time.Duration(p.looks)*n.interval())
}

func (n *NIC) txRings() []*txRing {
	var rings []*txRing
	for _, q := range n.queues {
		rings = append(rings, q.tx)
	}
	for i := range n.pools {
		if t := n.pools[i].tx.Load(); t != nil {
			rings = append(rings, t)
		}
	}
	return rings
}

// recover sets the NIC up again. What was in its rings is lost, and counted. The workers wait meanwhile, or find nothing. The caller holds mu.
func (n *NIC) recover(why string) {
	n.log.Error("the NIC hangs and is reset; frames on their way are lost", "why", why)
	n.restarts.Add(1)
	for _, q := range n.queues {
		take(&q.receiving)
		defer q.receiving.Store(0)
	}
	for _, t := range n.txRings() {
		take(&t.owned)
		defer t.disown()
		n.lost.full.Add(t.unsent(n.r.Read32(regs.TDH(t.number))))
	}
	err := n.bringUp()
	n.broken = err != nil
	if n.broken {
		n.log.Error("the NIC does not come back; the next try follows", "error", err)
		return
	}
	n.log.Info("the NIC was set up again")
}

// take waits until a ring is nobody's and takes it.
func take(owned interface{ CompareAndSwap(old, new uint32) bool }) {
	for !owned.CompareAndSwap(0, 1) {
		runtime.Gosched()
	}
}
