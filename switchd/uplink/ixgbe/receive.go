package ixgbe

import (
	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

const (
	packetMemory   = 512 << 10 // bytes, for what is received
	loopbackMargin = 24576     // bytes: what must fit into that memory beside a frame that is looped
	writeBackOrder = regs.DCA_RXCTRL_RO_WR
)

// clearTables takes out what the tables may hold: a reset leaves them undefined (4.6.7).
func (n *NIC) clearTables() {
	n.r.Write32(regs.RXCTRL, 0)
	zero := func(register func(int) uint32, count int) {
		for i := range count {
			n.r.Write32(register(i), 0)
		}
	}
	zero(regs.PFUTA, 128)
	zero(regs.VLVF, regs.VLVFs)
	zero(regs.VLVFB, 2*regs.VLVFs)
	zero(regs.MPSAR_LO, regs.RARs)
	zero(regs.MPSAR_HI, regs.RARs)
	zero(regs.MTA, 128)
	zero(regs.FTQF, 128)
	zero(regs.VMOLR, regs.Pools)
	zero(regs.VMVIR, regs.Pools)
	zero(regs.PFVFSPOOF, 8)
	for i := range regs.RARs {
		n.r.Write32(regs.RAL(i), 0)
		n.r.Write32(regs.RAH(i), 0)
	}
	for i := range 128 { // which VLANs the NIC takes at all; the pools choose (VLVF)
		n.r.Write32(regs.VFTA(i), 0xffffffff)
	}
}

// setReceive says what is taken from the wire, how long it may be, and where it waits (4.6.7).
func (n *NIC) setReceive() {
	tcs := uint32(n.config.Layout.tcs)
	for i := range packetBuffers {
		size := uint32(0)
		if i < int(tcs) {
			size = packetMemory / tcs
		}
		n.r.Write32(regs.RXPBSIZE(i), size)
		threshold := uint32(0)
		if size > 0 && n.config.Loopback { // needed for looped frames even without flow control
			threshold = size - loopbackMargin
		}
		n.r.Write32(regs.FCRTH(i), threshold)
	}
	n.set(regs.HLREG0, regs.HLREG0_RXCRCSTR|regs.HLREG0_TXCRCEN|regs.HLREG0_TXPADEN|regs.HLREG0_JUMBOEN)
	n.r.Write32(regs.MAXFRS, uint32(n.config.MaxFrame+4)<<16)
	v := n.r.Read32(regs.RDRXCTL) &^ regs.RDRXCTL_RSCFRSTSZ
	n.r.Write32(regs.RDRXCTL, v|regs.RDRXCTL_CRCSTRIP|regs.RDRXCTL_RSCACKC|regs.RDRXCTL_FCOE_WRFIX)
	n.r.Write32(regs.FCTRL, n.acceptance())
	n.set(regs.CTRL_EXT, regs.CTRL_EXT_NS_DIS)
	n.set(regs.VLNCTRL, regs.VLNCTRL_VFE)
	if n.config.Layout.rss() {
		n.setRSS()
	}
	if tcs > 1 {
		n.setClasses(tcs)
	}
}

// acceptance is the filter in front of the pools: all groups (guests need IPv6's neighbour discovery), and any address if asked to or if
// there are more addresses than filters.
func (n *NIC) acceptance() uint32 {
	v := uint32(regs.FCTRL_BAM | regs.FCTRL_MPE)
	if n.config.Promiscuous || n.crowded() {
		v |= regs.FCTRL_UPE
	}
	return v
}

// setPools divides the queues among pools (4.6.10.1.4, 4.6.11.3). Every pool's VLAN is known from the start; addresses follow when guests
// are heard of.
func (n *NIC) setPools() {
	l := &n.config.Layout
	n.r.Write32(regs.MRQC, l.mrqc)
	n.r.Write32(regs.QDE, 0)
	n.r.Write32(regs.VT_CTL, n.poolControl())
	for i := range l.Pools {
		n.setVLAN(i, ether.VLAN(n.config.VLANBase+i))
	}
	loop := uint32(0)
	if n.config.Loopback {
		loop = regs.PFDTXGSWC_LBE
	}
	n.r.Write32(regs.PFDTXGSWC, loop)
	for i := range 2 {
		all := uint32(0xffffffff)
		if i*32 >= l.Pools {
			all = 0
		} else if l.Pools < 32 {
			all = 1<<l.Pools - 1
		}
		n.r.Write32(regs.VFRE(i), all)
		n.r.Write32(regs.VFTE(i), all)
		if loop == 0 {
			all = 0
		}
		n.r.Write32(regs.VMTXSW(i), all)
	}
}

// poolControl: frames for no pool are dropped, unless ports without a pool depend on the default one, which is pool 0.
func (n *NIC) poolControl() uint32 {
	v := uint32(regs.VT_CTL_VT_EN | regs.VT_CTL_REPLEN)
	if !n.fallback {
		v |= regs.VT_CTL_DIS_DEFPL
	}
	return v
}

// setVLAN makes a VLAN the pool's (8.2.3.27.14). A pool has the entry of its number.
func (n *NIC) setVLAN(pool int, vlan ether.VLAN) {
	low, high := poolBit(pool)
	n.r.Write32(regs.VLVFB(2*pool), low)
	n.r.Write32(regs.VLVFB(2*pool+1), high)
	n.r.Write32(regs.VLVF(pool), regs.VLVF_VIEN|uint32(vlan))
}

// poolBit is a pool's place in a 64-bit set of two registers.
func poolBit(pool int) (low, high uint32) {
	set := uint64(1) << pool
	return uint32(set), uint32(set >> 32)
}

// setRSS spreads a pool's frames evenly over its queues (7.1.2.8). The key repeats a 16-bit pattern, which gives both directions of a
// connection the same queue.
func (n *NIC) setRSS() {
	for i := range 10 {
		n.r.Write32(regs.RSSRK(i), 0x5a6d5a6d)
	}
	for i := range 32 { // four entries of a byte each; the lower two bits choose among four queues
		n.r.Write32(regs.RETA(i), 0x03020100)
	}
	for i := range n.config.Layout.Pools {
		n.r.Write32(regs.PSRTYPE(i), 2<<29) // two bits of the entry count
	}
}

// setClasses maps the eight priorities to traffic classes (4.6.11.3.1): one each, or two to a class.
func (n *NIC) setClasses(tcs uint32) {
	classes := uint32(0)
	for priority := range uint32(8) {
		classes |= priority * tcs / 8 << (3 * priority)
	}
	n.r.Write32(regs.RTRUP2TC, classes)
	n.r.Write32(regs.RTTUP2TC, classes)
	const roundRobin, recycle = 1 << 1, 1 << 2
	n.r.Write32(regs.RTRPCS, roundRobin|recycle)
}
