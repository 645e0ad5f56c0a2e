package ixgbe

import (
	"vhostkit/switchd/uplink/ixgbe/regs"
)

const (
	sendMemory = 160 << 10 // bytes, for what is sent
	// TXDCTL: fetch when 36 descriptors or fewer are left in the NIC and 8 or more wait in memory. Without these, one queue does not reach
	// line rate with small frames. WTHRESH is 0: with anything else the NIC does not look at RS and writes back only when so many
	// descriptors have come together, which the last ones of a burst never do.
	thresholds = 36 | 8<<8
)

// setTransmit divides what the NIC sends with, and starts its side of it (4.6.8). MTQC changes only while the arbiter is off.
func (n *NIC) setTransmit() {
	n.set(regs.RTTDCS, regs.RTTDCS_ARBDIS)
	n.r.Write32(regs.MTQC, n.config.Layout.mtqc)
	n.r.Write32(regs.DTXMXSZRQ, 0xfff)
	tcs := n.config.Layout.tcs
	for i := range packetBuffers {
		size := uint32(0)
		if i < tcs {
			size = uint32(sendMemory / tcs)
		}
		n.r.Write32(regs.TXPBSIZE(i), size)
		n.r.Write32(regs.TXPBTHRESH(i), size>>10)
	}
	n.clear(regs.RTTDCS, regs.RTTDCS_ARBDIS)
	n.set(regs.DMATXCTL, regs.DMATXCTL_TE)
}

// startRings starts the rings that there are: the workers', and after a reset the pools'.
func (n *NIC) startRings() error {
	for _, q := range n.queues {
		if err := n.startTx(q.tx); err != nil {
			return err
		}
	}
	for i := range n.pools {
		for _, r := range n.pools[i].rx {
			if err := n.startRx(r); err != nil {
				return err
			}
		}
		n.pools[i].started = len(n.pools[i].rx)
		if t := n.pools[i].tx.Load(); t != nil {
			if err := n.startTx(t); err != nil {
				return err
			}
		}
	}
	return nil
}

// startTx starts a transmit queue. Nobody uses its ring.
func (n *NIC) startTx(t *txRing) error {
	q := t.number
	if n.r.Read32(regs.TXDCTL(q))&regs.TXDCTL_ENABLE != 0 { // an attempt before this one was too slow for us
		n.clear(regs.TXDCTL(q), regs.TXDCTL_ENABLE)
		if err := n.await(regs.TXDCTL(q), regs.TXDCTL_ENABLE, 0, patience); err != nil {
			return err
		}
	}
	t.reset()
	n.r.Write32(regs.TDBAL(q), uint32(t.ring.IOVA))
	n.r.Write32(regs.TDBAH(q), uint32(t.ring.IOVA>>32))
	n.r.Write32(regs.TDLEN(q), txSize*regs.DescSize)
	n.r.Write32(regs.TDH(q), 0)
	n.clear(regs.DCA_TXCTRL(q), regs.DCA_TXCTRL_WRO)
	n.r.Write32(regs.TXDCTL(q), thresholds)
	n.r.Write32(regs.TXDCTL(q), thresholds|regs.TXDCTL_ENABLE)
	err := n.await(regs.TXDCTL(q), regs.TXDCTL_ENABLE, regs.TXDCTL_ENABLE, patience)
	t.stopped = err != nil
	return err
}

// startRx starts a receive queue with all its descriptors but one. Nobody polls its ring.
func (n *NIC) startRx(r *rxRing) error {
	q := r.number
	if n.r.Read32(regs.RXDCTL(q))&regs.RXDCTL_ENABLE != 0 { // an attempt before this one was too slow for us
		n.clear(regs.RXDCTL(q), regs.RXDCTL_ENABLE)
		if err := n.await(regs.RXDCTL(q), regs.RXDCTL_ENABLE, 0, patience); err != nil {
			return err
		}
	}
	r.reset()
	n.r.Write32(regs.RDBAL(q), uint32(r.ring.IOVA))
	n.r.Write32(regs.RDBAH(q), uint32(r.ring.IOVA>>32))
	n.r.Write32(regs.RDLEN(q), rxSize*regs.DescSize)
	n.r.Write32(regs.SRRCTL(q), uint32(r.size>>10)|regs.SRRCTL_ADV_ONEBUF|regs.SRRCTL_DROP_EN)
	n.r.Write32(regs.RDH(q), 0)
	n.clear(regs.DCA_RXCTRL(q), writeBackOrder)
	control := n.r.Read32(regs.RXDCTL(q)) &^ regs.RXDCTL_VME
	if r.strip {
		control |= regs.RXDCTL_VME
	}
	n.r.Write32(regs.RXDCTL(q), control|regs.RXDCTL_ENABLE)
	if err := n.await(regs.RXDCTL(q), regs.RXDCTL_ENABLE, regs.RXDCTL_ENABLE, patience); err != nil {
		return err
	}
	n.r.Write32(regs.RDT(q), rxSize-1)
	return nil
}
