// Package policy is what an operator wants of a port, compiled into what the data path reads. It is pure: no I/O, no frames, no clock. A new
// rule is a field of Rules and a method of Port that says what it means, and takes Plain away if the fast path does not ask it. In forward it is asked
// by accept or route (slowpath.go) if it is about what a port sends, by prepare (uplink.go) about what leaves on the uplink, by admit about what comes from there;
// Config.rules gives it its value.
package policy

import "vhostkit/switchd/ether"

// Local is who takes frames for a local address to its port (--vm2vm).
type Local int

const (
	LocalNever    Local = 0 // the uplink gets every frame
	LocalSwitch   Local = 1 // the switch
	LocalHardware Local = 2 // the NIC, as far as it knows both addresses; the switch, where it does not
)

// Rules are what is wanted of a port.
type Rules struct {
	VLAN        ether.VLAN // its tag on the uplink
	Addresses   int        // how many it may have
	Local       Local
	Promiscuous bool // unicast frames of its VLAN reach it from outside whatever their address
	KeepTag     bool // frames from outside keep the VLAN's tag
	// Foreign are the VLANs of all ports, which a guest's own tags may not name on the way out; its own VLAN excepted.
	Foreign ether.VLANRange
}

// Port is compiled Rules. It is immutable: other rules are another Port.
type Port struct {
	Rules
	// Plain tells the fast path that frames from this port need no more than the address table.
	Plain bool
}

// Compile makes what the data path reads.
func Compile(r Rules) Port {
	return Port{Rules: r, Plain: r.Local == LocalSwitch}
}

// MayTag tells whether a guest's own tag may leave on the uplink.
func (p *Port) MayTag(vlan ether.VLAN) bool { return vlan == p.VLAN || !p.Foreign.Contains(vlan) }
