package ixgbe

import (
	"sync"

	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// The NIC can check, per pool, whether what the pool's queues send has a source address and a VLAN of the pool's (7.10.3.9). It does that on
// top of the switch, which knows all ports and lets none speak with another's address or VLAN. So a frame that the switch has let through must
// not fall victim to what the NIC does not know. What is not checked:
//   - ports without a pool, and the last pools, whose other queues are the workers': what has no pool's ring (yet) is sent there;
//   - the addresses of a pool while one of its port's is not in the NIC: it was just learned (Expect), or there is no room;
//   - VLANs with Config.Loopback: frames carry their destination's then.

// expectLooks is for how many looks of the watchdog an address is expected. The first may come at once.
const expectLooks = 2

// checks is what the NIC checks of what pools send. Its lock comes after NIC.mu and is held for a few register writes only: workers take it
// when they learn an address, and must not wait for what takes long.
type checks struct {
	mu       sync.Mutex
	want     [regs.Pools / 8]uint32 // of PFVFSPOOF, if nothing is expected
	have     [regs.Pools / 8]uint32 // what the NIC has
	expected [regs.Pools]uint8      // looks of the watchdog for which a new address of the port may be on its way
}

// Expect opens the check of a port's addresses for a moment: the switch has learned one, and AddFilter follows. See uplink.Checker.
func (n *NIC) Expect(of uplink.Pool) {
	pool := int(of)
	if !n.config.AntiSpoof || pool < 0 || pool >= len(n.pools) {
		return
	}
	n.checks.mu.Lock()
	defer n.checks.mu.Unlock()
	n.checks.expected[pool] = expectLooks
	n.writeChecks(pool / 8)
}

// expire ends what is expected after its time.
func (n *NIC) expire() {
	c := &n.checks
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.expected {
		if c.expected[i] > 0 {
			c.expected[i]--
			n.writeChecks(i / 8)
		}
	}
}

// setSpoofing lets the NIC check the pool's source addresses, and VLANs where frames never carry another's, if it knows them all.
func (n *NIC) setSpoofing(pool int) {
	p, l := &n.pools[pool], &n.config.Layout
	mask := uint32(1) << (pool % 8)
	vlans := mask << regs.SPOOF_VLAN_SHIFT
	c := &n.checks
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.want[pool/8] &^ (mask | vlans)
	if n.config.AntiSpoof && p.filters > 0 && pool < l.worker(len(n.queues)-1)/l.Stride {
		if !p.incomplete {
			v |= mask
		}
		if !n.config.Loopback {
			v |= vlans
		}
	}
	c.want[pool/8] = v
	n.writeChecks(pool / 8)
}

// writeChecks brings a register to what it should be. The caller holds checks.mu.
func (n *NIC) writeChecks(i int) {
	c := &n.checks
	v := c.want[i]
	for pool := range 8 {
		if c.expected[8*i+pool] > 0 {
			v &^= 1 << pool
		}
	}
	if v != c.have[i] {
		c.have[i] = v
		n.r.Write32(regs.PFVFSPOOF(i), v)
	}
}

// forgetChecks is for a NIC that is being reset: nobody writes to it until setSpoofing does.
func (n *NIC) forgetChecks() {
	n.checks.mu.Lock()
	defer n.checks.mu.Unlock()
	n.checks.want, n.checks.have = [regs.Pools / 8]uint32{}, [regs.Pools / 8]uint32{}
}
