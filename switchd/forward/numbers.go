package forward

import (
	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
)

// A port has four numbers, each of a type of its own. This package computes them from each other here and nowhere else; the
// driver of the NIC knows the scheme of VLANs, too, because its pools have those of their numbers when it starts.
//
//	PortID             who it is: what operators see, and the device number of DPDK's vhost sample
//	bridge.Destination where its domain's address table sends frames for it: its place in the workers' table
//	ether.VLAN         its tag on the uplink
//	pool               the queues of the NIC that receive for it

// PortID is a port's number: the lowest that was free when it was added.
type PortID int

// noPort is no port's number.
const noPort PortID = -1

// Where frames go that go to no port.
const (
	toUplink = bridge.None // whose address nobody here has is outside
	toFlood  = bridge.None - 1
	toNobody = bridge.None - 2
)

// destination is the port's place in the workers' table, and what address tables say of its addresses.
func (id PortID) destination() bridge.Destination { return bridge.Destination(id) }

// portAt is the port that an address table means; noPort for bridge.None.
func portAt(d bridge.Destination) PortID { return PortID(d) }

// at is what workers see of the port that a destination means, nil if there is none: a table may be older than an address.
func (t *table) at(d bridge.Destination) *portState {
	if d < 0 || int(d) >= len(t.ports) {
		return nil
	}
	return t.ports[d]
}

// pool is the NIC's pool of the port. One without a pool gets its frames from the default pool, and by software.
func (id PortID) pool() uplink.Pool { return uplink.Pool(id) }

// vlanOf is the scheme of a VLAN for each port, which DPDK's vhost sample has: base + number.
func (c *Config) vlanOf(id PortID) ether.VLAN { return ether.VLAN(c.VLANBase + int(id)) }

// portOf is the reverse, of ports that there may be: noPort for other VLANs.
func (c *Config) portOf(vlan ether.VLAN) PortID {
	if id := PortID(int(vlan) - c.VLANBase); id >= 0 && id < MaxPorts {
		return id
	}
	return noPort
}

// mostPorts is how many ports have a VLAN of their own.
func (c *Config) mostPorts() int { return max(0, min(MaxPorts, int(ether.MaxVLAN)+1-c.VLANBase)) }

// foreignVLANs are the VLANs of all ports that there may be: what a guest's own tags may not name, but for its own.
func (c *Config) foreignVLANs() ether.VLANRange {
	return ether.VLANRange{First: c.vlanOf(0), Last: ether.VLAN(c.VLANBase + MaxPorts - 1)}
}
