package forward

import (
	"time"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/policy"
	"vhostkit/switchd/uplink"
)

// VM2VM is how frames between local guests travel (--vm2vm of DPDK's vhost sample).
type VM2VM = policy.Local

const (
	VM2VMDisabled = policy.LocalNever    // every frame goes to the uplink
	VM2VMSoftware = policy.LocalSwitch   // frames for a local address are delivered here
	VM2VMHardware = policy.LocalHardware // the uplink's own switch loops them back (82599), as far as it knows them
)

const (
	// MaxPorts is how many ports there can be: those that have an identifier whose VLAN (base + identifier) is a valid one, 0..3094 for base 1000.
	// With a higher base there are fewer.
	MaxPorts = 3095
	// StandardFrame is the longest frame in bytes, without FCS, where receive buffers are not mergeable: 1500 + header + two tags.
	StandardFrame = 1522
	// JumboFrame is the longest frame with mergeable receive buffers, as in DPDK's vhost sample (0x2600).
	JumboFrame = 0x2600
	// maxGSOFrame is the longest frame that a guest may hand over for segmentation.
	maxGSOFrame = 65535 + 18
)

// Config is what a Switch is built from.
type Config struct {
	VM2VM        VM2VM
	Cores        []int // one worker each, pinned; an entry of -1 is a worker that is not pinned
	Busy         bool  // poll without ever sleeping
	MaxFrame     int   // bytes without FCS
	RxRetry      bool
	RxRetryNum   int
	RxRetryDelay time.Duration
	VLANBase     int  // port n is VLAN VLANBase+n on the uplink
	VLANStrip    bool // take the tag off frames from the uplink
	Promiscuous  bool // unicast frames of a port's VLAN reach it whatever their address
	MACLimit     int  // addresses per port
	AddressAge   time.Duration
	Uplink       uplink.Uplink // nil: none
	ZeroCopy     bool          // let an uplink that can read frames from their senders' memory
	OnEvent      func(Event)   // called from one goroutine, in order
	// Replace tells whether memory of the switch's own faulted at this address, and has made it usable again: no port is to blame then. Workers
	// call it, several at once; nil: there is none.
	Replace func(guestmem.Ptr) bool
}

// EventKind says what an Event reports.
type EventKind int

const (
	EventRegistered    EventKind = iota // an address was learned on a port
	EventUnregistered                   // an address left: aged out, or the port closed
	EventDuplicate                      // a port uses an address that is registered on Other; its frames are dropped
	EventAddressLimit                   // a port uses more addresses than it may
	EventAnnounceLimit                  // a port asks for more announcements (SEND_RARP) than it may
	EventUplinkFailed                   // the uplink receives no more
	EventNotUnmapped                    // the uplink's device was not made to forget the port's memory
	EventNotLent                        // the uplink's device cannot read the port's memory; its frames are copied
	EventFailed                         // the port's device broke the rules or its memory is gone; it was stopped
)

// Event is something that an operator wants to read in the log.
type Event struct {
	Kind  EventKind
	Port  PortID
	Other PortID // EventDuplicate: the port that has the address
	MAC   uint64
	VLAN  ether.VLAN
	Err   error // EventFailed, EventUplinkFailed, EventNotUnmapped, EventNotLent; EventRegistered: the uplink did not take the address
}

// rules are those that all ports have today.
func (c *Config) rules(id PortID) policy.Rules {
	return policy.Rules{
		VLAN: c.vlanOf(id), Addresses: c.MACLimit, Local: c.VM2VM, Promiscuous: c.Promiscuous, KeepTag: !c.VLANStrip, Foreign: c.foreignVLANs(),
	}
}
