package forward

import "sync/atomic"

// Reason says why a frame was dropped.
type Reason int

// Reasons on the sender's side are counted at its transmit ring, the others at the receive ring that the frame was meant for.
const (
	DropRunt          Reason = iota // shorter than an Ethernet header
	DropOversized                   // longer than the switch carries
	DropBadHeader                   // the buffer is too short for the virtio-net header, or its offload fields make no sense
	DropBadSource                   // source address is zero or a group address
	DropOwnAddress                  // addressed to the port that sent it
	DropDuplicateMAC                // source address belongs to another port
	DropMACLimit                    // the port has as many addresses as it may
	DropNoDestination               // nobody has that address or VLAN
	DropNoUplink                    // for the outside, and there is no uplink
	DropUplinkFull                  // the uplink did not take it
	DropForeignVLAN                 // for the outside, with the tag of another port's VLAN
	DropNotReady                    // the receiving port has no running receive ring
	DropRingFull                    // the receiver offered no buffers, also after the retries
	DropTooSmall                    // the receiver's buffers are too small for the frame
	DropFault                       // the receiver's ring or memory broke during delivery
	numReasons
)

var reasonNames = [numReasons]string{
	"runt", "oversized", "bad_header", "bad_source", "own_address", "mac_duplicate", "mac_limit", "no_destination", "no_uplink",
	"uplink_full", "foreign_vlan", "not_ready", "ring_full", "too_small", "fault",
}

func (r Reason) String() string { return reasonNames[r] }

// counters of one ring or uplink queue. Workers add once a burst; anybody may read at any time.
type counters struct {
	packets   atomic.Uint64 // transmit: taken from the ring; receive: put into it
	bytes     atomic.Uint64
	delivered atomic.Uint64 // transmit: frames that reached at least one receiver or the uplink
	retries   atomic.Uint64 // receive: rounds of waiting for buffers
	kicks     atomic.Uint64 // transmit: wake-ups by the driver
	calls     atomic.Uint64 // interrupts sent to the driver
	drops     [numReasons]atomic.Uint64
}

// QueueStats is a copy of a ring's counters. Frames are counted without FCS and virtio-net header.
type QueueStats struct {
	Packets, Bytes, Delivered, Retries, Kicks, Calls uint64
	Drops                                            map[string]uint64 // by reason, only those that happened
}

// Dropped is the sum over all reasons.
func (s QueueStats) Dropped() uint64 {
	sum := uint64(0)
	for _, n := range s.Drops {
		sum += n
	}
	return sum
}

func (c *counters) snapshot() QueueStats {
	s := QueueStats{
		Packets: c.packets.Load(), Bytes: c.bytes.Load(), Delivered: c.delivered.Load(), Retries: c.retries.Load(),
		Kicks: c.kicks.Load(), Calls: c.calls.Load(), Drops: map[string]uint64{},
	}
	for r := range c.drops {
		if n := c.drops[r].Load(); n > 0 {
			s.Drops[Reason(r).String()] = n
		}
	}
	return s
}
