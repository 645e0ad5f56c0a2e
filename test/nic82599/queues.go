package nic82599

import (
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// writeQueue writes the registers of receive and transmit queues.
func (n *NIC) writeQueue(r *regs.Register, offset uint32, q int, value uint32) bool {
	if r.Mode == regs.Queue && value&r.Writable != n.get(offset) && n.queueEnabled(r.Name, q) {
		n.violate("%s changed from %#x to %#x while its queue is enabled (8.2.3.8, 8.2.3.9)", regs.Name(offset), n.get(offset), value)
	}
	switch r.Name {
	case "RDT":
		n.writeRDT(q, value&0xffff)
	case "TDT":
		n.writeTDT(q, value&0xffff)
	case "RXDCTL":
		if value&regs.RXDCTL_ENABLE != 0 && !n.has(offset, regs.RXDCTL_ENABLE) {
			n.checkRing("RD", q, n.get(regs.RDLEN(q)), n.get(regs.RDBAL(q)))
		}
		if n.faults.HungReceive {
			value |= n.get(offset) & regs.RXDCTL_ENABLE
		}
		n.set(offset, value)
	case "TXDCTL":
		if value&regs.TXDCTL_ENABLE != 0 && !n.has(offset, regs.TXDCTL_ENABLE) {
			n.checkRing("TD", q, n.get(regs.TDLEN(q)), n.get(regs.TDBAL(q)))
			if !n.has(regs.DMATXCTL, regs.DMATXCTL_TE) {
				n.violate("%s enabled while DMATXCTL.TE is clear (4.6.8)", regs.Name(offset))
			}
			if n.has(regs.DCA_TXCTRL(q), regs.DCA_TXCTRL_WRO) {
				n.violate("DCA_TXCTRL[%d]: write-back with relaxed ordering when the queue is enabled (8.2.3.11.2)", q)
			}
			n.tx[q] = txQueue{}
		}
		n.set(offset, value&^regs.TXDCTL_SWFLSH)
	case "SRRCTL":
		if changed := value ^ n.get(offset); changed&^regs.SRRCTL_DROP_EN != 0 && n.has(regs.RXDCTL(q), regs.RXDCTL_ENABLE) {
			n.violate("SRRCTL[%d] changed from %#x to %#x while its queue is enabled (8.2.3.8.7)", q, n.get(offset), value)
		}
		n.set(offset, value)
	default:
		return false
	}
	return true
}

func (n *NIC) queueEnabled(name string, q int) bool {
	if name[0] == 'R' {
		return n.has(regs.RXDCTL(q), regs.RXDCTL_ENABLE)
	}
	return n.has(regs.TXDCTL(q), regs.TXDCTL_ENABLE)
}

func (n *NIC) checkRing(prefix string, q int, length, base uint32) {
	if length == 0 || length%128 != 0 {
		n.violate("%sLEN[%d] is %d when the queue is enabled, not a multiple of 128 (8.2.3.8.3)", prefix, q, length)
	}
	if base%128 != 0 {
		n.violate("%sBAL[%d] is %#x, not aligned to 128 (8.2.3.8.1)", prefix, q, base)
	}
}

func (n *NIC) writeRDT(q int, tail uint32) {
	enabled := n.has(regs.RXDCTL(q), regs.RXDCTL_ENABLE)
	size := n.get(regs.RDLEN(q)) / regs.DescSize
	switch {
	case !enabled && tail != 0:
		n.violate("RDT[%d] set to %d before RXDCTL.ENABLE (4.6.7)", q, tail)
	case enabled && tail >= size:
		n.violate("RDT[%d] set to %d in a ring of %d (8.2.3.8.5)", q, tail, size)
		return
	case enabled && tail == n.get(regs.RDH(q)) && tail != n.get(regs.RDT(q)):
		n.violate("RDT[%d] set to RDH, %d: that says that the ring is empty (7.1.9)", q, tail)
	}
	n.set(regs.RDT(q), tail)
}

func (n *NIC) writeTDT(q int, tail uint32) {
	enabled := n.has(regs.TXDCTL(q), regs.TXDCTL_ENABLE)
	size := n.get(regs.TDLEN(q)) / regs.DescSize
	switch {
	case !enabled && tail != 0:
		n.violate("TDT[%d] set to %d before TXDCTL.ENABLE (4.6.8)", q, tail)
	case enabled && tail >= size:
		n.violate("TDT[%d] set to %d in a ring of %d (8.2.3.9.9)", q, tail, size)
		return
	case enabled && tail != n.get(regs.TDT(q)) && n.has(regs.RTTDCS, regs.RTTDCS_ARBDIS):
		n.violate("TDT[%d] set to %d while RTTDCS.ARBDIS is set (4.6.8)", q, tail)
	}
	n.set(regs.TDT(q), tail)
	if enabled && n.has(regs.DMATXCTL, regs.DMATXCTL_TE) && !n.has(regs.RTTDCS, regs.RTTDCS_ARBDIS) {
		n.transmit(q)
		n.deliverLooped()
	}
}

// writeArbiter writes RTTDCS. What was queued while the arbiter was off leaves when it is on again.
func (n *NIC) writeArbiter(value uint32) {
	was := n.has(regs.RTTDCS, regs.RTTDCS_ARBDIS)
	n.set(regs.RTTDCS, value)
	if !was || n.has(regs.RTTDCS, regs.RTTDCS_ARBDIS) || !n.has(regs.DMATXCTL, regs.DMATXCTL_TE) {
		return
	}
	for q := range regs.TXQueues {
		if n.has(regs.TXDCTL(q), regs.TXDCTL_ENABLE) {
			n.transmit(q)
		}
	}
	n.deliverLooped()
}

// dmaRead and dmaWrite go to the driver's memory; register names whom to blame.
func (n *NIC) dmaRead(iova uint64, p []byte, register string, q int) bool {
	return n.dma(iova, p, register, q, false)
}
func (n *NIC) dmaWrite(iova uint64, p []byte, register string, q int) bool {
	return n.dma(iova, p, register, q, true)
}

func (n *NIC) dma(iova uint64, p []byte, register string, q int, write bool) bool {
	switch {
	case n.memory == nil:
		n.violate("%s[%d]: DMA at %#x, but there is no memory", register, q, iova)
		return false
	case !n.pci.busMaster():
		n.violate("%s[%d]: DMA at %#x, but the command register's bus master bit is clear", register, q, iova)
		return false
	case n.has(regs.CTRL, regs.CTRL_GIO_DIS) && !n.faults.GIOStuck:
		n.violate("%s[%d]: DMA at %#x, but CTRL.GIO_DIS is set", register, q, iova)
		return false
	}
	err := error(nil)
	if write {
		err = n.memory.WriteDMA(iova, p)
	} else {
		err = n.memory.ReadDMA(iova, p)
	}
	if err != nil {
		n.violate("%s[%d]: DMA of %d bytes at %#x: %w", register, q, len(p), iova, err)
	}
	return err == nil
}
