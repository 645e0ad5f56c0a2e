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
	n.expire()
	if n.state != running {
		clear(seen)
		n.retry()
		return
	}
	if n.collect() {
		n.watchLink()
	} else {
		n.lose()
	}
	if n.state != running {
		return
	}
	if why := n.stuck(seen); why != "" {
		n.recover(why)
		clear(seen)
	}
}

// stuck tells why the NIC has to be reset, or "". What waits for the link does not hang; but with the NIC's own switch, which needs none, what is
// for other guests waits behind it.
func (n *NIC) stuck(seen map[*txRing]*progress) string {
	if !n.carrier.Load() {
		if n.owes() {
			return "the link is gone, and guests wait for the buffers that the NIC was to send from"
		}
		if !n.config.Loopback {
			clear(seen)
			return ""
		}
	}
	for _, t := range n.txRings() {
		if why := n.hung(t, seen); why != "" {
			return why
		}
	}
	return ""
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

// recover sets the NIC up again. What was in its rings is lost, and counted. Meanwhile the workers find nothing, and what they send is lost. The
// caller holds mu.
func (n *NIC) recover(why string) {
	if n.state == gone {
		return // and holds nothing any more
	}
	n.log.Error("the NIC hangs and is reset; frames on their way are lost", "why", why)
	n.lost.resets.Add(1)
	n.enter(resetting)
	if err := n.resetRings(); err != nil {
		n.log.Error("the NIC does not come back and is kept from memory; the next try follows", "error", err)
		return
	}
	n.log.Info("the NIC was set up again")
	n.watchLink()
}

// resetRings resets the NIC with all rings taken from the workers.
func (n *NIC) resetRings() error {
	defer n.takeRings()()
	err := n.restart(func() {
		n.collect()
		n.discard()
	})
	if err != nil {
		n.cutOff()
		return err
	}
	n.enter(running)
	return nil
}

// takeRings takes all rings from the workers, and gives back what returns them.
func (n *NIC) takeRings() (release func()) {
	rings := n.txRings()
	for _, q := range n.queues {
		take(&q.receiving)
	}
	for _, t := range rings {
		take(&t.owned)
	}
	return func() {
		for _, t := range rings {
			t.disown()
		}
		for _, q := range n.queues {
			q.receiving.Store(0)
		}
	}
}

// discard counts what is in the rings and will be lost with them. The caller has the rings.
func (n *NIC) discard() {
	for _, t := range n.txRings() {
		t.reclaim()
		head := n.r.Read32(regs.TDH(t.number))
		if head >= txSize { // the NIC is gone, or does not know; more than these it has not sent
			head = t.clean
		}
		n.lost.discarded.Add(t.unsent(head))
	}
	for i := range n.pools {
		for _, r := range n.pools[i].rx {
			n.lost.discarded.Add(r.unread())
		}
	}
}

// cutOff keeps a NIC that does not work from memory, so that all that it was lent can go back. It may do nothing until a reset has succeeded. The
// caller has the rings.
func (n *NIC) cutOff() {
	n.carrier.Store(false)
	switch err := n.command(0, pciMaster); {
	case n.state == gone: // whatever the bus says
	case err == nil:
		n.enter(isolated)
	default:
		n.log.Warn("the NIC cannot be kept from memory", "error", err)
		n.enter(stray)
	}
	for _, t := range n.txRings() {
		t.reset()
		t.stopped = true
	}
	for i := range n.pools {
		for _, r := range n.pools[i].rx {
			r.reset()
		}
	}
}

// lose gives up a device that does not answer on the bus any more.
func (n *NIC) lose() {
	if n.state == gone {
		return
	}
	n.enter(gone)
	n.log.Error("NIC disappeared from the PCI bus (all registers read 0xffffffff). Nothing goes out or comes in; look for it with lspci and in the kernel's log, "+
		"check its slot, power and cooling, and restart switchd when it is there again", "register", regs.Name(regs.STATUS))
	defer n.takeRings()()
	n.discard()
	n.cutOff()
}

// retry tries to bring a NIC back that did not come back before, or that was gone.
func (n *NIC) retry() {
	switch absent := n.r.Read32(regs.STATUS) == allOnes; {
	case absent:
		n.lose()
	case n.state == gone:
		n.enter(resetting)
		n.recover("it had disappeared from the PCI bus, and answers again")
	default:
		n.recover("it did not come back")
	}
}

// take spins until the ring is free, then claims it.
func take(owned interface{ CompareAndSwap(old, new uint32) bool }) {
	for !owned.CompareAndSwap(0, 1) {
		runtime.Gosched()
	}
}
