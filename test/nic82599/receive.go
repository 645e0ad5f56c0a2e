package nic82599

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// fromWire takes a frame in: statistics, filters, pools, rings.
func (n *NIC) fromWire(f []byte) {
	if len(f) < 14 || !n.has(regs.RXCTRL, regs.RXCTRL_RXEN) {
		return
	}
	if len(f) < 60 {
		f = append(f[:len(f):len(f)], make([]byte, 60-len(f))...)
	}
	n.countReceived(f)
	if n.tooLong(f) {
		n.count(regs.ROC, 1)
		return
	}
	if !n.admitted(f) {
		return
	}
	n.countGood(f)
	m := n.mode()
	switch {
	case !m.reachable:
		n.violate("MRQC.MRQE is %#x, a mode that the card does not have (8.2.3.7.12)", n.get(regs.MRQC)&regs.MRQC_MRQE)
	case m.virtual && n.has(regs.VT_CTL, regs.VT_CTL_VT_EN):
		pools := n.fromWirePools(f)
		for ; pools != 0; pools &= pools - 1 {
			n.deliver(m, bits.TrailingZeros64(pools), f, false)
		}
	default:
		n.deliver(m, 0, f, false)
	}
}

// tooLong compares with MAXFRS, whose limit includes the FCS; a VLAN tag may come on top (8.2.3.22.13).
func (n *NIC) tooLong(f []byte) bool {
	limit := 1518
	if n.has(regs.HLREG0, regs.HLREG0_JUMBOEN) {
		limit = int(n.get(regs.MAXFRS) >> 16)
	}
	if _, tagged := vid(f); tagged {
		limit += 4
	}
	return len(f)+4 > limit
}

// deliver puts a frame into a pool's queue.
func (n *NIC) deliver(m mode, pool int, f []byte, looped bool) {
	c := &n.pools[min(pool, regs.Pools-1)]
	if pool >= m.pools {
		c.Dropped++
		return
	}
	l := parse(f)
	q, hash, kind := n.queueOf(m, pool, f, l, looped)
	if !n.has(regs.RXDCTL(q), regs.RXDCTL_ENABLE) {
		c.Dropped++
		return
	}
	status, types := n.inspect(f, l, looped)
	tci := uint16(0)
	if n.has(regs.RXDCTL(q), regs.RXDCTL_VME) {
		if rest, t, ok := untag(f); ok {
			f, tci = rest, t
			status |= regs.RXD_STAT_VP
		}
	}
	if !n.has(regs.HLREG0, regs.HLREG0_RXCRCSTR) {
		f = binary.LittleEndian.AppendUint32(f[:len(f):len(f)], crc32.ChecksumIEEE(f))
	}
	if !n.fill(q, f, status, types|kind, hash, tci) {
		c.Dropped++
		n.countQueue(regs.QPRDC(0), q, 1)
		return
	}
	c.Received++
	if looped {
		c.Looped++
	}
	n.countQueue(regs.QPRC(0), q, 1)
	n.addPair(regs.QBRC_L(n.statSet(q)), regs.QBRC_H(n.statSet(q)), uint64(len(f)))
	n.queueCause(q, false)
}

// inspect gives the status and error bits and the packet type of a frame's write-back. What comes from the internal switch is not looked into.
func (n *NIC) inspect(f []byte, l layers, looped bool) (status, types uint32) {
	if looped {
		return regs.RXD_STAT_LB, 0
	}
	if l.l3 != 0 {
		if l.ipv6 {
			types |= regs.RXD_TYPE_IPV6
		} else {
			types |= regs.RXD_TYPE_IPV4
			status |= regs.RXD_STAT_IPCS
			if !l.ipGood(f) {
				status |= regs.RXD_ERR_IPE
			}
		}
	}
	switch l.proto {
	case 6:
		types |= regs.RXD_TYPE_TCP
	case 17:
		types |= regs.RXD_TYPE_UDP
	}
	if l.proto != 0 && !l.unchecked(f) {
		status |= regs.RXD_STAT_L4CS
		if !l.l4Good(f) {
			status |= regs.RXD_ERR_TCPE
			n.count(regs.XEC, 1)
		}
	}
	return status, types
}

// fill writes a frame into a ring's next buffers and their descriptors back. It tells whether there was room.
func (n *NIC) fill(q int, f []byte, status, types, hash uint32, tci uint16) bool {
	size := n.get(regs.RDLEN(q)) / regs.DescSize
	head, tail := n.get(regs.RDH(q)), n.get(regs.RDT(q))
	room := int(n.get(regs.SRRCTL(q))&regs.SRRCTL_BSIZEPKT) << 10
	if size == 0 || room == 0 {
		n.violate("SRRCTL[%d].BSIZEPKT or RDLEN is 0 while the queue is enabled (8.2.3.8.7)", q)
		return false
	}
	need := uint32((len(f) + room - 1) / room)
	if (tail+size-head)%size < need {
		return false
	}
	base := uint64(n.get(regs.RDBAL(q))) | uint64(n.get(regs.RDBAH(q)))<<32
	for rest := f; ; {
		part := rest[:min(room, len(rest))]
		rest = rest[len(part):]
		at := base + uint64(head)*regs.DescSize
		var d [regs.DescSize]byte
		if !n.dmaRead(at, d[:], "RDBAL", q) || !n.dmaWrite(binary.LittleEndian.Uint64(d[:]), part, "RDBAL", q) {
			return false
		}
		word := uint32(regs.RXD_STAT_DD)
		if len(rest) == 0 {
			word |= regs.RXD_STAT_EOP | status
		}
		binary.LittleEndian.PutUint32(d[0:], types)
		binary.LittleEndian.PutUint32(d[4:], hash)
		binary.LittleEndian.PutUint16(d[12:], uint16(len(part)))
		binary.LittleEndian.PutUint16(d[14:], tci)
		binary.LittleEndian.PutUint32(d[8:], 0)
		// DD must not be seen before the rest: it is written by itself, last.
		if !n.dmaWrite(at, d[:], "RDBAL", q) {
			return false
		}
		binary.LittleEndian.PutUint32(d[8:], word)
		if !n.dmaWrite(at+8, d[8:12], "RDBAL", q) {
			return false
		}
		head = (head + 1) % size
		n.set(regs.RDH(q), head)
		if len(rest) == 0 {
			return true
		}
	}
}
