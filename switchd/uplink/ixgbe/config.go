package ixgbe

import (
	"log/slog"
	"time"

	"vhostkit/switchd/ether"
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
