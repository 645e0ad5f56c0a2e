package ixgbe

import (
	"sync/atomic"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// packetBuffers is how many receive packet buffers count what they had no room for.
const packetBuffers = 8

// collect adds the NIC's counters to ours. Reading clears them (8.2.3.23), so only one may read: the caller holds mu. They have 32 bits,
// which 64-byte frames at line rate fill in five minutes; the watchdog is much faster. What a device says that has gone from the bus does not
// count: false then.
func (n *NIC) collect() bool {
	l := &n.lost
	var read [5 + 7 + packetBuffers + 1]struct {
		to *atomic.Uint64
		by uint64
	}
	i := 0
	add := func(to *atomic.Uint64, offset uint32) {
		read[i].to, read[i].by = to, uint64(n.r.Read32(offset))
		i++
	}
	add(&l.wireRx, regs.GPRC)
	add(&l.wireTx, regs.GPTC)
	for b := range packetBuffers {
		add(&l.missed, regs.RXMPC(b))
	}
	// Without a descriptor of its own a frame is dropped per queue (DROP_EN). All queues count in set 0: RQSMR stays as after reset.
	add(&l.missed, regs.QPRDC(0))
	for _, offset := range []uint32{regs.CRCERRS, regs.ILLERRC, regs.ERRBC, regs.RLEC, regs.RUC, regs.RFC, regs.RJC} {
		add(&l.broken, offset)
	}
	add(&l.truncated, regs.ROC)
	add(&l.spoofed, regs.SSVPC)
	if n.r.Read32(regs.STATUS) == allOnes {
		return false
	}
	for _, c := range read[:i] {
		c.to.Add(c.by)
	}
	return true
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
