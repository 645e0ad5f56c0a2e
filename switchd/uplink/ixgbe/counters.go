package ixgbe

import (
	"sync/atomic"

	"vhostkit/switchd/uplink"
)

// counters are the driver's and, added up, the NIC's. A new one is a field and a line of list.
type counters struct {
	full, down, rejected, truncated, missed, broken, spoofed, discarded atomic.Uint64
	wireRx, wireTx, lent, resets                                        atomic.Uint64
}

func (c *counters) list() []uplink.Counter {
	return []uplink.Counter{
		{Name: "full", Help: "frames not sent: the NIC's ring had no room", Lost: true, Value: c.full.Load()},
		{Name: "down", Help: "frames not sent: no link, or the NIC is being reset or is gone", Lost: true, Value: c.down.Load()},
		{Name: "rejected", Help: "frames not sent: a length or an offload request that cannot be served",
			Lost: true, Value: c.rejected.Load()},
		{Name: "truncated", Help: "frames not received: longer than the buffers", Lost: true, Value: c.truncated.Load()},
		{Name: "missed", Help: "frames not received: no room in the rings or in the NIC", Lost: true, Value: c.missed.Load()},
		{Name: "broken", Help: "frames not received: bad checksum or length on the wire", Lost: true, Value: c.broken.Load()},
		{Name: "spoofed", Help: "frames not sent: the NIC found another port's source address or VLAN",
			Lost: true, Value: c.spoofed.Load()},
		{Name: "discarded", Help: "frames lost in the NIC's rings when it was reset, or left there by a port that has gone",
			Lost: true, Value: c.discarded.Load()},
		{Name: "wire_rx", Help: "good frames that the NIC saw on the wire", Value: c.wireRx.Load()},
		{Name: "wire_tx", Help: "good frames that the NIC put on the wire", Value: c.wireTx.Load()},
		{Name: "lent", Help: "frames sent that the NIC read from guests' memory (--zero-copy)", Value: c.lent.Load()},
		{Name: "resets", Help: "resets of the NIC because it did not go on, tries that failed included", Value: c.resets.Load()},
	}
}

// Counters adds up what the driver and the NIC counted.
func (n *NIC) Counters() []uplink.Counter {
	n.mu.Lock()
	if n.state == running {
		n.collect()
	}
	n.mu.Unlock()
	return n.lost.list()
}
