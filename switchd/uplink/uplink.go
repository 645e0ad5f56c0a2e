// Package uplink is the interface between the switch and its uplink drivers, the packages below. Every driver has the small core, Uplink; what
// only some can do is in interfaces of its own, which the switch asks for once, when it is made. A call on the data path concerns a burst, never
// a single frame.
package uplink

import (
	"errors"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
)

// ErrNoDevice says that the interface that was asked for is not there.
var ErrNoDevice = errors.New("uplink device not found")

// ErrNoPool says that the hardware has no receive pool left for a port.
var ErrNoPool = errors.New("no free hardware pool")

// Offload is what a frame's sender left to others, with the virtio-net header's values (virtio 1.2, 5.1.6.1). Zero: nothing.
type Offload struct {
	Flags, GSOType                         uint8
	HdrLen, GSOSize, CsumStart, CsumOffset uint16
}

// Pool is the number that the switch gives each of its ports here. A device that sorts frames has queues of their own for the lowest of them.
type Pool int

// TxFrame is a frame for the outside: a header of ours and the payload where its sender has it.
type TxFrame struct {
	Header    [ether.HeaderLen + ether.TagLen]byte
	HeaderLen uint8   // bytes of Header that count
	Pool      Pool    // of the port that sent it
	Offload   Offload // positions count as if Header had no tag
	Segs      []guestmem.Segment
	Len       int // bytes in all, without FCS
}

// RxFrame is a frame from the outside.
type RxFrame struct {
	Addr     guestmem.Ptr // outside the Go heap, valid until the next Receive on that queue
	Len      uint32       // bytes that are there, without FCS
	Tagged   bool
	Stripped bool       // the outermost tag is not in its place: the hardware took it off
	VLAN     ether.VLAN // of the outermost tag
}

// Queue is a queue pair of an uplink. Each direction has one user at a time.
type Queue interface {
	// Receive fills frames and returns how many came. It does not block.
	Receive(frames []RxFrame) (int, error)
	// Send sends frames in order and returns how many went. Without an error the uplink did not take the rest; an error always means that
	// the first of the rest could not be read from its sender's memory. A frame that the uplink refuses for its own sake (its offload
	// request makes no sense) does not hold up those behind it: it is among those that went, and in the counter "rejected".
	//
	// Where inFlight is nil, the frames' memory is the sender's again when Send returns. Otherwise the device may still read it until what Send
	// has filled in is done; only a DMAMapper does that.
	Send(frames []TxFrame, inFlight *InFlight) (int, error)
	// FD is readable when frames have come; -1 if the queue can only be polled. It stays readable as long as there are frames.
	FD() int
}

// Link is the state of an interface.
type Link struct {
	Up      bool // the administrator's switch
	Carrier bool // the other side is there
	MTU     int  // bytes, without Ethernet header and tags
}

// InFlight is what a device was given to read and may not have read yet: bursts of one of its rings, up to a position. The zero value is nothing.
type InFlight struct {
	Ring  Ring
	Until uint32 // a position of the ring's
}

// Ring is a transmit ring of a device.
type Ring interface {
	// Done tells whether the device has read everything up to a position. It does not wait.
	Done(until uint32) bool
}

// Done tells whether the device has read all of it. It costs something: ask once a burst.
func (f *InFlight) Done() bool { return f.Ring == nil || f.Ring.Done(f.Until) }

// DMAMapper is an uplink whose device can read frames from where their senders have them.
type DMAMapper interface {
	// MapDMA lets the device read a guest's memory, in place of what it could read for that port before. With an error it reads nothing of
	// it: frames are copied, as without.
	MapDMA(pool Pool, m *guestmem.Memory) error
	// UnmapDMA ends that; no frame of the port may be sent meanwhile. drained says that the device is done with all that the port had in
	// flight. Otherwise it is stopped in the middle of what it does and set up again, to be sure that it reads none of that memory any more.
	UnmapDMA(pool Pool, drained bool) error
}

// Checker is an uplink whose device may check the source addresses of what ports send.
type Checker interface {
	// Expect says that a port is about to send with a source address that AddFilter will be called for: nothing is held against the port
	// meanwhile. A worker calls it once for an address that is new; it does not block.
	Expect(pool Pool)
}

// Filterer is an uplink whose device sorts frames by address into pools of its own. Other uplinks deliver everything, and the switch sorts it.
type Filterer interface {
	// Pools is how many ports can have a hardware pool of their own.
	Pools() int
	// AddFilter makes frames with that address and VLAN reach the port. With ErrNoPool they do so, but by way of the switch: the hardware does
	// not know the port, and cannot loop frames to it. With another error nothing has changed. It may be asked again for what it has or has
	// not, and tells how things are then.
	AddFilter(pool Pool, mac ether.MAC, vlan ether.VLAN) error
	RemoveFilter(pool Pool, mac ether.MAC, vlan ether.VLAN) error
}

// Pools is how many ports can have a hardware pool of their own: none without an uplink, or where the uplink sorts nothing.
func Pools(u Uplink) int {
	if f, ok := u.(Filterer); ok {
		return f.Pools()
	}
	return 0
}

// Uplink is an interface to the outside: what every driver has.
type Uplink interface {
	Name() string   // of the interface
	Driver() string // "tap", "ixgbe"
	Queues() int    // at least 1
	Queue(i int) Queue
	// Link asks for the state now; ErrNoDevice if the interface was removed. Not for the data path.
	Link() (Link, error)
	// Counters may be read at any time. A driver always lists the same ones, in the same order.
	Counters() []Counter
	Close() error
}
