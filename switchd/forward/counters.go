package forward

import "sync/atomic"

// Reason says why a frame was dropped.
type Reason int

// Each dropped frame is counted once at its sender (a transmit ring, or what came from the uplink). What was meant for a receive ring or for the uplink
// is counted there as well.
const (
	DropRunt          Reason = iota // shorter than an Ethernet header
	DropOversized                   // longer than the switch carries
	DropBadHeader                   // the buffer is too short for the virtio-net header, or its offload fields ask for what makes no sense or was not negotiated
	DropBadSource                   // source address is zero or a group address
	DropOwnAddress                  // addressed to the port that sent it
	DropDuplicateMAC                // source address belongs to another port
	DropMACLimit                    // the port has as many addresses as it may
	DropNoDestination               // nobody has that address or VLAN
	DropNoUplink                    // for everybody, with --vm2vm 0, and there is no uplink
	DropUplinkFull                  // the uplink did not take it
	DropForeignVLAN                 // for the outside, with the tag of another port's VLAN
	DropNotReady                    // the receiving port has no running receive ring
	DropRingFull                    // the receiver offered no buffers, also after the retries
	DropRingBusy                    // another worker had the receiver's ring for too long
	DropTooSmall                    // the receiver's buffers are too small for the frame
	DropFault                       // the receiver's or the sender's ring or memory broke during delivery
	numReasons
)

var reasonNames = [numReasons]string{
	"runt", "oversized", "bad_header", "bad_source", "own_address", "mac_duplicate", "mac_limit", "no_destination", "no_uplink",
	"uplink_full", "foreign_vlan", "not_ready", "ring_full", "ring_busy", "too_small", "fault",
}

func (r Reason) String() string { return reasonNames[r] }

// counters of one ring or uplink queue. Workers add once a burst; anybody may read at any time.
type counters struct {
	packets   atomic.Uint64 // transmit: taken from the ring; receive: put into it
	bytes     atomic.Uint64
	delivered atomic.Uint64 // transmit: frames that reached at least one receiver or the uplink
	copies    atomic.Uint64 // transmit: what reached receivers beyond that
	retries   atomic.Uint64 // receive: rounds of waiting for buffers
	kicks     atomic.Uint64 // transmit: wake-ups by the driver
	calls     atomic.Uint64 // interrupts sent to the driver
	drops     [numReasons]atomic.Uint64
}

// QueueStats is a copy of a ring's counters. Frames are counted without FCS and virtio-net header. Between bursts they add up:
//
//   - At a sender, which is a transmit ring or the uplink's RX: Packets = Delivered + Dropped(). A frame is delivered if it reached one receiver at
//     least, and all of it; it is dropped otherwise, for one reason.
//   - At a receiver, which is a receive ring or the uplink's TX: what was meant for it = Packets + Dropped(). A frame for a port without a running
//     receive ring was meant for none, and is dropped at its sender only.
//   - In all, over the present ports, those that have gone (Switch.Gone), the uplink and the switch's own frames (Switch.Own): the senders'
//     Delivered + Copies = the receivers' Packets.
//   - Frames for one receiver that it lost are dropped there and at their sender, frames for everybody only there as long as one receiver got them.
type QueueStats struct {
	Packets   uint64 // taken from a transmit ring or from the uplink; put into a receive ring or given to the uplink
	Bytes     uint64
	Delivered uint64            // senders: frames that reached a receiver
	Copies    uint64            // senders: further receivers of frames for everybody, and segments beyond the first of frames that were cut
	Retries   uint64            // receive rings: rounds of waiting for buffers
	Kicks     uint64            // transmit rings: wake-ups by the driver
	Calls     uint64            // interrupts sent to the driver
	Drops     map[string]uint64 // by reason, only those that happened
}

// Add sums two sets of counters.
func (s QueueStats) Add(o QueueStats) QueueStats {
	sum := QueueStats{
		Packets: s.Packets + o.Packets, Bytes: s.Bytes + o.Bytes, Delivered: s.Delivered + o.Delivered, Copies: s.Copies + o.Copies,
		Retries: s.Retries + o.Retries, Kicks: s.Kicks + o.Kicks, Calls: s.Calls + o.Calls, Drops: map[string]uint64{},
	}
	for _, drops := range []map[string]uint64{s.Drops, o.Drops} {
		for reason, n := range drops {
			sum.Drops[reason] += n
		}
	}
	return sum
}

// lose counts frames that a receiver did not get: there, unless it has no counters, and at their sender. Without a sender's counters, which is so
// for a frame that may reach others or is one of several pieces, the reason is kept for who sums up.
func (w *worker) lose(receiver, sender *counters, reason Reason, n int) {
	if n == 0 {
		return
	}
	if receiver != nil {
		receiver.drops[reason].Add(uint64(n))
	}
	if sender != nil {
		sender.drops[reason].Add(uint64(n))
	} else {
		w.loss = reason
	}
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
		Packets: c.packets.Load(), Bytes: c.bytes.Load(), Delivered: c.delivered.Load(), Copies: c.copies.Load(), Retries: c.retries.Load(),
		Kicks: c.kicks.Load(), Calls: c.calls.Load(), Drops: map[string]uint64{},
	}
	for r := range c.drops {
		if n := c.drops[r].Load(); n > 0 {
			s.Drops[Reason(r).String()] = n
		}
	}
	return s
}
