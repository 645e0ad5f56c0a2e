package tap

import (
	"sync/atomic"

	"vhostkit/switchd/uplink"
)

// counters of all queues; added to only when something is lost. A new one is a field and a line of list.
type counters struct{ full, down, rejected, truncated atomic.Uint64 }

func (c *counters) list() []uplink.Counter {
	return []uplink.Counter{
		{Name: "full", Help: "frames not sent: the kernel had no room", Lost: true, Value: c.full.Load()},
		{Name: "down", Help: "frames not sent: the interface is down or was removed", Lost: true, Value: c.down.Load()},
		{Name: "rejected", Help: "frames not sent: the kernel refused their offload request or the number of their pieces",
			Lost: true, Value: c.rejected.Load()},
		{Name: "truncated", Help: "frames not received: longer than the buffers", Lost: true, Value: c.truncated.Load()},
	}
}
