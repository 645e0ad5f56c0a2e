package ixgbe

import (
	"sync/atomic"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// packetBuffers is how many receive packet buffers count what they had no room for.
const packetBuffers = 8

// collect adds the NIC's counters to ours. Reading clears them (8.2.3.23), so only one may read: the caller holds mu. They have 32 bits,
// which 64-byte frames at line rate fill in five minutes; the watchdog is much faster.
func (n *NIC) collect() {
	add := func(to *atomic.Uint64, offset uint32) { to.Add(uint64(n.r.Read32(offset))) }
	add(&n.lost.wireRx, regs.GPRC)
	add(&n.lost.wireTx, regs.GPTC)
	for i := range packetBuffers {
		add(&n.lost.missed, regs.RXMPC(i))
	}
	// Without a descriptor of its own a frame is dropped per queue (DROP_EN). All queues count in set 0: RQSMR stays as after reset.
	add(&n.lost.missed, regs.QPRDC(0))
	for _, offset := range []uint32{regs.CRCERRS, regs.ILLERRC, regs.ERRBC, regs.RLEC, regs.RUC, regs.RFC, regs.RJC} {
		add(&n.lost.broken, offset)
	}
	add(&n.lost.truncated, regs.ROC)
	add(&n.lost.spoofed, regs.SSVPC)
}

// clearStatistics reads what was counted before, once.
func (n *NIC) clearStatistics() {
	for _, r := range regs.Table() {
		if r.Mode != regs.RC || r.Alias != 0 {
			continue
		}
		for i := range r.Count {
			n.r.Read32(r.Offset + uint32(i)*r.Stride)
		}
	}
}
