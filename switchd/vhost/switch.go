package vhost

import (
	"vhostkit/internal/host"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// Switch is what devices plug into.
type Switch interface {
	// Connect makes a port for a device. An error refuses the device: its connection is closed.
	Connect(Connection) (Port, error)
}

// Connection describes a device that is about to be plugged in.
type Connection struct {
	Socket    string // path of the socket or device node
	Name      string // of the named port that the socket belongs to; empty on a shared socket
	Transport string // "vhost-user" or "vhost-cuse"
	Peer      Peer
	// Fail stops the device from the data plane's side: its ring is broken or its memory is gone. Any goroutine may call it; it does not
	// block.
	Fail func(error)
}

// Peer is the process at the other end.
type Peer = host.Peer

// Port is a device's place in the switch.
type Port interface {
	ID() int
	// Update replaces the set of rings that the data plane may touch. It returns when nothing of the previous set is touched any more.
	Update(Update)
	// Touch runs f, which may touch the guest's memory, and returns the fault that ended it early, or nil. Whoever is no worker does it so. f must
	// not wait for anything else.
	Touch(f func()) *guestmem.Fault
	// Announce tells the network where the guest's address is now (SEND_RARP).
	Announce(mac [6]byte)
	// SetMTU passes on the MTU in bytes that the front-end configured.
	SetMTU(mtu int) error
	// Quiesce returns when nothing uses a call descriptor any more that was replaced in a running ring before (virtio.Queue.SetCall), and has
	// the ring's driver woken through the new one. Any goroutine may call it, also after Close.
	Quiesce(*virtio.Queue)
	// Waiting tells why no ring runs, for display; empty if one does.
	Waiting(reason string)
	// Stopped tells, before or after Close, that the device was stopped for an error.
	Stopped(error)
	// Close gives the port back, with the same guarantee as Update.
	Close()
}

// Update is a device's present state.
type Update struct {
	Rings            []*virtio.Queue // vring i: even = the guest's receive, odd = its transmit queue; nil where not running
	Features         virtio.Features
	ProtocolFeatures uint64
	Memory           *guestmem.Memory // that the rings belong to; nil if none runs
}
