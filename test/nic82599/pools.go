package nic82599

import (
	"encoding/binary"
	"math/bits"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// PoolCounters count what a pool got and sent, in frames.
type PoolCounters struct {
	Received, Looped, Sent, Dropped, Spoofed, Mirrored uint64
}

// PoolCounters gives the counters of all pools since the card was made. Without VMDq all is pool 0's.
func (n *NIC) PoolCounters() [regs.Pools]PoolCounters {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pools
}

// mode is how MRQC divides the receive queues.
type mode struct {
	virtual   bool // VMDq
	perPool   int  // queues of a pool
	pools     int
	rss, dcb  bool
	reachable bool // MRQC says something that this card knows
}

func (n *NIC) mode() mode {
	switch n.get(regs.MRQC) & regs.MRQC_MRQE {
	case 0:
		return mode{perPool: 1, pools: 1, reachable: true}
	case regs.MRQC_RSS:
		return mode{perPool: 16, pools: 1, rss: true, reachable: true}
	case 2, 3, 4, 5: // DCB with and without RSS, no pools
		return mode{perPool: 128, pools: 1, reachable: true}
	case regs.MRQC_VMDQ64:
		return mode{virtual: true, perPool: 2, pools: 64, reachable: true}
	case regs.MRQC_VMDQ64RSS:
		return mode{virtual: true, perPool: 2, pools: 64, rss: true, reachable: true}
	case regs.MRQC_VMDQ32RSS:
		return mode{virtual: true, perPool: 4, pools: 32, rss: true, reachable: true}
	case regs.MRQC_VMDQ32DCB:
		return mode{virtual: true, perPool: 4, pools: 32, dcb: true, reachable: true}
	case regs.MRQC_VMDQ16DCB:
		return mode{virtual: true, perPool: 8, pools: 16, dcb: true, reachable: true}
	}
	return mode{}
}

// senderPool is the pool of a transmit queue (MTQC, 7.2.1.2.1).
func (n *NIC) senderPool(q int) int {
	switch n.get(regs.MTQC) {
	case regs.MTQC_VMDQ64:
		return q / 2
	case regs.MTQC_VMDQ32, regs.MTQC_DCB32:
		return q / 4
	case regs.MTQC_DCB16:
		return q / 8
	}
	if m := n.mode(); m.virtual { // queues that nobody divided: those of the receive side tell
		return min(q/m.perPool, regs.Pools-1)
	}
	return 0
}

// hash is a frame's place in MTA or PFUTA: 12 bits of the destination, chosen by MCSTCTRL.MO (7.1.2.5).
func (n *NIC) hash(f []byte) int {
	shift := []uint{4, 3, 2, 0}[n.get(regs.MCSTCTRL)&regs.MCSTCTRL_MO]
	return int((uint32(f[4])>>shift | uint32(f[5])<<(8-shift)) & 0xfff)
}

func multicast(f []byte) bool { return f[0]&1 == 1 }
func broadcast(f []byte) bool {
	return binary.BigEndian.Uint32(f) == 0xffffffff && binary.BigEndian.Uint16(f[4:]) == 0xffff
}

// exact gives the pools of the receive addresses that match, and whether one does.
func (n *NIC) exact(f []byte) (pools uint64, found bool) {
	low, high := binary.LittleEndian.Uint32(f), uint32(f[4])|uint32(f[5])<<8|regs.RAH_AV
	for i := range regs.RARs {
		if n.get(regs.RAL(i)) == low && n.get(regs.RAH(i)) == high {
			pools |= n.pair(regs.MPSAR_LO(0), i)
			found = true
		}
	}
	return pools, found
}

// admitted is the filter in front of the pools (7.1.2): does the frame come in at all?
func (n *NIC) admitted(f []byte) bool {
	if vlan, tagged := vid(f); tagged && n.has(regs.VLNCTRL, regs.VLNCTRL_VFE) && !n.bit(regs.VFTA(0), int(vlan)) {
		return false
	}
	if _, found := n.exact(f); found {
		return true
	}
	switch {
	case broadcast(f):
		return n.has(regs.FCTRL, regs.FCTRL_BAM)
	case multicast(f):
		return n.has(regs.FCTRL, regs.FCTRL_MPE) || n.has(regs.MCSTCTRL, regs.MCSTCTRL_MFE) && n.bit(regs.MTA(0), n.hash(f))
	}
	return n.has(regs.FCTRL, regs.FCTRL_UPE) || n.bit(regs.PFUTA(0), n.hash(f))
}

func vid(f []byte) (uint16, bool) {
	if len(f) < 18 || binary.BigEndian.Uint16(f[12:]) != 0x8100 {
		return 0, false
	}
	return binary.BigEndian.Uint16(f[14:]) & 0xfff, true
}

// vmolr gives the pools whose VMOLR has a bit.
func (n *NIC) vmolr(bit uint32) (pools uint64) {
	for p := range regs.Pools {
		if n.has(regs.VMOLR(p), bit) {
			pools |= 1 << p
		}
	}
	return pools
}

// vlanPools are the pools that take a frame's VLAN: those of the entry for its tag, or those that take frames without one.
func (n *NIC) vlanPools(f []byte) uint64 {
	vlan, tagged := vid(f)
	if !tagged {
		return n.vmolr(regs.VMOLR_AUPE)
	}
	for i := range regs.VLVFs {
		if n.get(regs.VLVF(i)) == regs.VLVF_VIEN|uint32(vlan) {
			return n.pair(regs.VLVFB(0), i)
		}
	}
	return 0
}

// matched gives the pools that a frame is for by its address and its VLAN, without the default pool (7.10.3.3, 7.10.3.4).
func (n *NIC) matched(f []byte) (pools uint64) {
	pools, _ = n.exact(f)
	switch {
	case broadcast(f):
		pools |= n.vmolr(regs.VMOLR_BAM)
	case multicast(f):
		if n.has(regs.MCSTCTRL, regs.MCSTCTRL_MFE) && n.bit(regs.MTA(0), n.hash(f)) {
			pools |= n.vmolr(regs.VMOLR_ROMPE)
		}
		pools |= n.vmolr(regs.VMOLR_MPE)
	case n.bit(regs.PFUTA(0), n.hash(f)):
		pools |= n.vmolr(regs.VMOLR_ROPE)
	}
	return pools & n.vlanPools(f)
}

// enabled leaves the pools that may receive.
func (n *NIC) enabled(pools uint64) uint64 {
	return pools & (uint64(n.get(regs.VFRE(0))) | uint64(n.get(regs.VFRE(1)))<<32)
}

// replicated leaves one pool of several where replication is off: the lowest.
func (n *NIC) replicated(f []byte, pools uint64) uint64 {
	if pools != 0 && multicast(f) && !n.has(regs.VT_CTL, regs.VT_CTL_REPLEN) {
		return 1 << bits.TrailingZeros64(pools)
	}
	return pools
}

// fromWirePools are the pools for a frame from the wire.
func (n *NIC) fromWirePools(f []byte) uint64 {
	pools := n.replicated(f, n.matched(f))
	if pools == 0 && !n.has(regs.VT_CTL, regs.VT_CTL_DIS_DEFPL) {
		pools = 1 << (n.get(regs.VT_CTL) & regs.VT_CTL_DEFPL >> regs.VT_CTL_DEFPL_SHIFT)
	}
	return n.enabled(pools | n.mirrors(f, pools, true))
}

// mirrors are the pools that get copies (7.10.3.5).
func (n *NIC) mirrors(f []byte, pools uint64, fromWire bool) (copies uint64) {
	for i := range 4 {
		rule := n.get(regs.MRCTL(i))
		hit := rule&regs.MRCTL_UPME != 0 && fromWire || rule&regs.MRCTL_DPME != 0 && !fromWire
		if rule&regs.MRCTL_VPME != 0 && pools&n.pair(regs.VMRVM(0), i) != 0 {
			hit = true
		}
		if vlan, tagged := vid(f); rule&regs.MRCTL_VLME != 0 && tagged {
			for e := range regs.VLVFs {
				if n.get(regs.VLVF(e)) == regs.VLVF_VIEN|uint32(vlan) && n.pair(regs.VMRVLAN(0), i)>>e&1 == 1 {
					hit = true
				}
			}
		}
		if hit {
			copies |= 1 << (rule >> regs.MRCTL_MP_SHIFT & 0x3f)
		}
	}
	return copies
}

// queueOf is the receive queue of a pool for a frame.
func (n *NIC) queueOf(m mode, pool int, f []byte, l layers, looped bool) (queue int, hash uint32, kind uint32) {
	first := pool * m.perPool
	switch {
	case m.rss && !looped: // frames from the internal switch are not looked into
		if hash, kind = n.rss(f, l); kind != 0 {
			entry := n.get(regs.RETA(int(hash%128)/4)) >> (8 * (hash % 4)) & 0xf
			return first + int(entry)%m.perPool, hash, kind
		}
	case m.dcb:
		priority := uint16(0)
		if l.vlan != 0 {
			priority = binary.BigEndian.Uint16(f[l.vlan:]) >> 13
		}
		return first + int(n.get(regs.RTRUP2TC)>>(3*priority)&7)%m.perPool, 0, 0
	}
	return first, 0, 0
}
