package ixgbe

import (
	"log/slog"
	"sync/atomic"
	"time"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
)

// Config says how to set the NIC up.
type Config struct {
	Queues      int    // software queues, one per worker; 1 to MaxQueues
	Layout      Layout // of the VMDq pools; FindLayout
	VLANBase    int    // pool n has VLAN VLANBase+n
	MaxFrame    int    // bytes without FCS, tags included; up to MaxFrame
	Loopback    bool   // --vm2vm 2: frames from one pool to another's address are looped by the NIC
	VLANStrip   bool   // the NIC takes the tag off
	Promiscuous bool   // take frames for any address
	AntiSpoof   bool   // drop what a pool sends with an address, or (without Loopback) a VLAN, that is not its own
	Log         *slog.Logger
	Watch       time.Duration // how often the watchdog looks; 0: a second
}

const (
	// MaxQueues is how many workers can have a transmit queue of their own in every layout.
	MaxQueues = 16
	// MaxFrame is the longest frame in bytes, without FCS (8.2.3.22.13: 15.5 KiB with it).
	MaxFrame = 15<<10 + 512 - 4
	// minFrame is what Ethernet carries without being asked: 1500 bytes, header and two tags.
	minFrame = 1500 + ether.HeaderLen + 2*ether.TagLen
)

// mtu is what fits MaxFrame with two tags.
func (c *Config) mtu() int { return c.MaxFrame - ether.HeaderLen - 2*ether.TagLen }

// bufferSize is a multiple of 1 KiB, as SRRCTL counts.
func (c *Config) bufferSize() int { return max((c.MaxFrame+1023)>>10<<10, 2048) }

// losses count frames, most of them lost; see uplink.Stats.
type losses struct {
	full, down, rejected, truncated, missed, broken, spoofed, discarded atomic.Uint64
	wireRx, wireTx, lent                                                atomic.Uint64
}

// Stats adds up what the driver and the NIC counted.
func (n *NIC) Stats() uplink.Stats {
	n.mu.Lock()
	if !n.closed && !n.broken {
		n.collect()
	}
	n.mu.Unlock()
	l := &n.lost
	return uplink.Stats{
		Full: l.full.Load(), Down: l.down.Load(), Rejected: l.rejected.Load(), Truncated: l.truncated.Load(), Missed: l.missed.Load(),
		Broken: l.broken.Load(), Spoofed: l.spoofed.Load(), Discarded: l.discarded.Load(), WireRx: l.wireRx.Load(), WireTx: l.wireTx.Load(), Lent: l.lent.Load(),
	}
}
