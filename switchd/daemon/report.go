package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/uplink"
)

// report writes the switch's events to the log. A learned address is also printed in the words of DPDK's vhost sample, which operators look for.
// It is called by the goroutine that also stops broken devices, and waits for nobody: its output never does.
func (d *Daemon) report(e forward.Event) {
	mac := ether.MAC(e.MAC)
	port := int(e.Port) // an int: the log's budgets are kept by it
	switch e.Kind {
	case forward.EventRegistered:
		d.out.Address(port, fmt.Sprintf("DATA: (%d) MAC_ADDRESS %s and VLAN_TAG %d registered\n", port, mac, e.VLAN))
		if errors.Is(e.Err, uplink.ErrNoPool) {
			d.log.Warn("the address has no hardware pool; frames from outside reach it by way of the switch, more slowly", "port", port,
				"mac", mac, "reason", e.Err)
		} else if e.Err != nil {
			d.log.Error("the uplink did not take the address filter and is asked again; until then frames from outside do not reach this address", "port", port,
				"mac", mac, "error", e.Err)
		}
	case forward.EventUnregistered:
		d.log.Info("address unregistered", "port", port, "mac", mac, "vlan", e.VLAN)
	case forward.EventDuplicate:
		d.log.Warn("device is using a registered MAC address; its frames are dropped", "port", port, "mac", mac, "registered_on", int(e.Other))
	case forward.EventAddressLimit:
		d.log.Warn("port uses more source addresses than it may; frames from further ones are dropped", "port", port, "mac", mac,
			"limit", d.config.MACLimit)
	case forward.EventAnnounceLimit:
		d.log.Warn("front-end asks for more announcements (SEND_RARP) than a port may have made; the rest is left out", "port", port, "mac", mac)
	case forward.EventUplinkFailed:
		d.log.Error("nothing comes in from the uplink any more; restart switchd when the interface is back", "uplink", d.config.Uplink,
			"error", e.Err)
	case forward.EventNotUnmapped:
		d.log.Error("the NIC was not made to forget a guest's memory, which it could read with --zero-copy", "port", port, "uplink", d.config.Uplink,
			"error", e.Err)
	case forward.EventNotLent:
		d.log.Warn("the card cannot read this guest's memory; its frames are copied, as with --zero-copy 0", "port", port, "error", e.Err)
	case forward.EventFailed: // the device's own session is told, and logs who it was
	}
}

// showStats prints the statistics screen of DPDK's vhost sample as often as the configuration says.
func (d *Daemon) showStats(ctx context.Context) {
	var ticker *time.Ticker
	var ticks <-chan time.Time // nil: never
	for {
		select {
		case <-ctx.Done():
			return
		case every := <-d.statsEvery:
			if ticker != nil {
				ticker.Stop()
			}
			if ticker, ticks = nil, nil; every > 0 {
				ticker = time.NewTicker(time.Duration(every) * time.Second)
				ticks = ticker.C
			}
		case <-ticks:
			d.out.Screen(FormatLegacyStats(d.legacyStats(), d.out.Terminal()))
		}
	}
}

// legacyStats sums each port's queues the way DPDK's vhost sample counts: TX is what the guest sent, RX what was meant for it.
func (d *Daemon) legacyStats() []LegacyStats {
	var list []LegacyStats
	for _, p := range d.sw.Ports() {
		s := LegacyStats{Device: int(p.ID)}
		for _, q := range p.Pairs {
			s.TxTotal += q.TX.Packets
			s.TxSuccessful += q.TX.Delivered
			s.RxTotal += q.RX.Packets + q.RX.Dropped()
			s.RxSuccessful += q.RX.Packets
		}
		list = append(list, s)
	}
	return list
}
