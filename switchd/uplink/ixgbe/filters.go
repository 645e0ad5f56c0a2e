package ixgbe

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// filter makes the frames for an address the port's.
type filter struct {
	pool int // the port's, which may be beyond those there are
	mac  ether.MAC
	vlan ether.VLAN
	used bool
}

// defaultPool gets what is for no other, as long as some port depends on it.
const defaultPool = 0

// drainTime is how long a worker may take to empty the rings of a pool. It usually takes microseconds.
const drainTime = 100 * time.Millisecond

// errReset says that the NIC is not there for the moment.
var errReset = errors.New("the NIC hangs and is being reset; it is tried again")

// AddFilter gives the port its pool and the pool the address (8.2.3.7.8, RAL and RAH; 8.2.3.7.10, MPSAR). A port beyond the pools, and an
// address beyond the NIC's 128, are served by the default pool and the switch: the error wraps uplink.ErrNoPool then. With any other error
// nothing has changed.
func (n *NIC) AddFilter(to uplink.Pool, mac ether.MAC, vlan ether.VLAN) error {
	n.filtering.Lock()
	defer n.filtering.Unlock()
	f := filter{int(to), mac, vlan, true}
	pools := n.poolsFor(f)
	for _, pool := range pools {
		if err := n.makeRings(pool); err != nil {
			return fmt.Errorf("pool %d for address %s: %w", pool, mac, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch n.state {
	case running:
	case closed:
		return uplink.ErrNoDevice
	default:
		return fmt.Errorf("address %s of port %d: %w", mac, to, errReset)
	}
	for _, pool := range pools {
		if err := n.activate(pool); err != nil {
			return fmt.Errorf("pool %d for address %s: %w", pool, mac, err)
		}
	}
	return n.note(f)
}

// poolsFor lists the pools that a filter needs: the port's own, if it has one, and the default pool for what the NIC cannot sort.
func (n *NIC) poolsFor(f filter) (pools []int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f.pool < len(n.pools) {
		pools = append(pools, f.pool)
		if n.slot(f) >= 0 || n.slot(filter{}) >= 0 {
			return pools
		}
	}
	return append(pools, defaultPool)
}

// slot is the place of a filter among the NIC's, -1 if it has none.
func (n *NIC) slot(f filter) int { return slices.Index(n.filters[:], f) }

// note takes up a filter whose pools are ready, gives it to the NIC, and tells how it is served.
func (n *NIC) note(f filter) error {
	own := f.pool < len(n.pools)
	slot := n.slot(f)
	if slot < 0 && !n.software[f] {
		if own && f.vlan != ether.VLAN(n.config.VLANBase+f.pool) {
			n.setVLAN(f.pool, f.vlan)
		}
		if slot = n.slot(filter{}); slot >= 0 {
			n.filters[slot] = f
			n.setFilter(slot)
		} else {
			n.software[f] = true
		}
		if own {
			n.pools[f.pool].filters++
			n.pools[f.pool].incomplete = n.pools[f.pool].incomplete || slot < 0
			n.setSpoofing(f.pool)
		}
		if !own || slot < 0 {
			n.fallBack()
		}
	}
	switch {
	case !own:
		return fmt.Errorf("%w for port %d: VMDq layout %s has %d; the switch itself sorts its frames out", uplink.ErrNoPool, f.pool,
			n.config.Layout.Name, len(n.pools))
	case slot < 0:
		return fmt.Errorf("%w for address %s: all %d address filters are in use; the switch itself sorts its frames out", uplink.ErrNoPool, f.mac,
			len(n.filters))
	}
	return nil
}

// RemoveFilter takes the address away. With the last one, what is left in the pool's rings is thrown away.
func (n *NIC) RemoveFilter(to uplink.Pool, mac ether.MAC, vlan ether.VLAN) error {
	n.filtering.Lock()
	defer n.filtering.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	f := filter{int(to), mac, vlan, true}
	slot := n.slot(f)
	switch {
	case slot >= 0:
		n.filters[slot] = filter{}
		n.setFilter(slot)
	case n.software[f]:
		delete(n.software, f)
	default:
		return nil // never added
	}
	if f.pool < len(n.pools) {
		p := &n.pools[f.pool]
		if p.filters--; p.filters == 0 {
			n.deactivate(f.pool)
		}
	}
	n.settle()
	return nil
}

// settle moves software-only addresses into freed slots, then restores filtering and anti-spoofing.
func (n *NIC) settle() {
	if len(n.software) == 0 && !n.fallback {
		return
	}
	for f := range n.software {
		slot := n.slot(filter{})
		if slot < 0 {
			break
		}
		delete(n.software, f)
		n.filters[slot] = f
		n.setFilter(slot)
	}
	for i := range n.pools {
		if p := &n.pools[i]; p.incomplete && !n.without(i) {
			p.incomplete = false
			n.setSpoofing(i)
		}
	}
	n.r.Write32(regs.FCTRL, n.acceptance())
	beyond := func(f filter) bool { return f.used && f.pool >= len(n.pools) }
	if !n.fallback || n.config.Promiscuous || n.crowded() || slices.ContainsFunc(n.filters[:], beyond) {
		return
	}
	n.fallback = false
	n.r.Write32(regs.VT_CTL, n.poolControl())
	if p := &n.pools[defaultPool]; p.active && p.filters == 0 {
		n.deactivate(defaultPool)
	}
}

// without tells whether a port has an address that is not in the NIC.
func (n *NIC) without(port int) bool {
	for f := range n.software {
		if f.pool == port {
			return true
		}
	}
	return false
}

// setFilter writes the registers of a filter: first the pools, so that a new address never has those of an old one.
func (n *NIC) setFilter(slot int) {
	f := &n.filters[slot]
	n.r.Write32(regs.RAH(slot), 0)
	pool := defaultPool
	if f.pool < len(n.pools) {
		pool = f.pool
	}
	low, high := poolBit(pool)
	if !f.used {
		low, high = 0, 0
	}
	n.r.Write32(regs.MPSAR_LO(slot), low)
	n.r.Write32(regs.MPSAR_HI(slot), high)
	if !f.used {
		n.r.Write32(regs.RAL(slot), 0)
		return
	}
	reversed := bits.ReverseBytes64(uint64(f.mac)) >> 16 // first byte lowest
	n.r.Write32(regs.RAL(slot), uint32(reversed))
	n.r.Write32(regs.RAH(slot), regs.RAH_AV|uint32(reversed>>32))
}

// activate starts a pool whose rings are made: its queues, and what groups it takes.
func (n *NIC) activate(pool int) error {
	p := &n.pools[pool]
	if p.active {
		return nil
	}
	used := p.started == n.config.Layout.used
	if err := n.startPool(p); err != nil {
		return err
	}
	p.active = true
	if used { // whatever came since then goes before the first address is in the NIC: what comes afterwards is the new port's
		p.startDraining()
		n.share()
		n.awaitDrained(pool)
	} else {
		n.share()
	}
	n.setGroups(pool)
	return nil
}

// startDraining lets the worker throw away what is in the pool's rings.
func (p *pool) startDraining() {
	for _, r := range p.rx {
		r.drain.Store(true)
	}
}

// awaitDrained gives the worker its time to empty the rings of an active pool. Without it nothing is lost: they are emptied later, though
// with what has come for a new port meanwhile.
func (n *NIC) awaitDrained(pool int) {
	for end := time.Now().Add(drainTime); ; time.Sleep(50 * time.Microsecond) {
		if !slices.ContainsFunc(n.pools[pool].rx, func(r *rxRing) bool { return r.drain.Load() }) {
			return
		}
		if time.Now().After(end) {
			n.log.Debug("no worker empties the rings of a pool", "pool", pool)
			return
		}
	}
}

// makeRings makes the rings of a pool that are not there yet. Memory for a device may take long to get: the kernel puts it behind a guest's that
// is just being mapped. So this is done under filtering alone.
func (n *NIC) makeRings(pool int) error {
	p, l := &n.pools[pool], &n.config.Layout
	for i := len(p.rx); i < l.used; i++ {
		r, err := newRxRing(n.dev, n.r, l.first(pool)+i, n.config.bufferSize(), n.config.VLANStrip, &n.lost)
		if err != nil {
			return err
		}
		n.mu.Lock()
		p.rx = append(p.rx, r)
		n.mu.Unlock()
	}
	if !n.poolRings || p.sending != nil {
		return nil
	}
	t, err := newTxRing(n.dev, n.r, l.first(pool), n.config.bufferSize(), &n.lost)
	if err != nil {
		return err
	}
	n.mu.Lock()
	p.sending = t
	n.mu.Unlock()
	return nil
}

// startPool starts the rings of a pool that do not run yet. One that did not start is tried again the next time: the NIC may have its memory
// already.
func (n *NIC) startPool(p *pool) error {
	for ; p.started < len(p.rx); p.started++ {
		if err := n.startRx(p.rx[p.started]); err != nil {
			return err
		}
	}
	if p.sending == nil || p.tx.Load() != nil {
		return nil
	}
	if err := n.startTx(p.sending); err != nil {
		return err
	}
	p.tx.Store(p.sending)
	return nil
}

// deactivate stops a pool that has no address any more and empties its rings.
func (n *NIC) deactivate(pool int) {
	p := &n.pools[pool]
	p.incomplete = false
	n.setSpoofing(pool)
	if pool == defaultPool && n.fallback {
		return // others depend on it
	}
	n.r.Write32(regs.VMOLR(pool), 0)
	p.startDraining()
	n.awaitDrained(pool)
	p.active = false
	n.share()
}

// setGroups lets broadcasts and multicasts of its VLAN into the pool; the switch does the same without a NIC.
func (n *NIC) setGroups(pool int) {
	n.r.Write32(regs.VMOLR(pool), regs.VMOLR_BAM|regs.VMOLR_MPE)
}

// fallBack brings frames for no pool into the default pool, which is active.
func (n *NIC) fallBack() {
	n.fallback = true
	n.r.Write32(regs.VT_CTL, n.poolControl())
	n.r.Write32(regs.FCTRL, n.acceptance())
}

// crowded tells whether there are addresses without a filter.
func (n *NIC) crowded() bool { return len(n.software) > 0 }

// setFilters writes all filters and pools again, after a reset.
func (n *NIC) setFilters() {
	for i := range n.filters {
		if n.filters[i].used {
			n.setFilter(i)
			if f := &n.filters[i]; f.pool < len(n.pools) && f.vlan != ether.VLAN(n.config.VLANBase+f.pool) {
				n.setVLAN(f.pool, f.vlan)
			}
		}
	}
	for i := range n.pools {
		if n.pools[i].active {
			n.setGroups(i)
			n.setSpoofing(i)
		}
	}
}

// share gives each worker's queue the rings of its pools: number pool % queues. The default pool is 0, and so queue 0's.
func (n *NIC) share() {
	rings := make([][]*rxRing, len(n.queues))
	for i := range n.pools {
		if p := &n.pools[i]; p.active {
			q := i % len(n.queues)
			rings[q] = append(rings[q], p.rx...)
		}
	}
	for i, q := range n.queues {
		q.rings.Store(&rings[i])
	}
}
