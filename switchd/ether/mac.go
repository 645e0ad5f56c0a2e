// Package ether knows what Ethernet frames look like: addresses, VLAN tags, and what a virtio sender may leave to others (checksums,
// segmentation). It does no I/O, and its functions on single frames allocate nothing.
package ether

import (
	"encoding/binary"
	"net"
)

// Sizes in bytes, without FCS.
const (
	HeaderLen = 14 // destination, source, EtherType
	TagLen    = 4  // 802.1Q
)

// EtherTypes.
const (
	TypeIPv4 = 0x0800
	TypeVLAN = 0x8100 // 802.1Q tag
	TypeIPv6 = 0x86dd
	TypeQinQ = 0x88a8 // 802.1ad service tag
)

// MAC is an address: its six bytes in network order are the low 48 bits.
type MAC uint64

// FromBytes makes an address of its bytes in network order.
func FromBytes(b [6]byte) MAC {
	return MAC(binary.BigEndian.Uint16(b[:]))<<32 | MAC(binary.BigEndian.Uint32(b[2:]))
}

// Bytes gives the bytes in network order.
func (m MAC) Bytes() (b [6]byte) {
	binary.BigEndian.PutUint16(b[:], uint16(m>>32))
	binary.BigEndian.PutUint32(b[2:], uint32(m))
	return b
}

func (m MAC) String() string {
	b := m.Bytes()
	return net.HardwareAddr(b[:]).String()
}

// IsZero tells whether no bit is set; no station has that address.
func (m MAC) IsZero() bool { return m == 0 }

// IsMulticast tells whether the group bit is set; the broadcast address is a group, too.
func (m MAC) IsMulticast() bool { return m>>40&1 != 0 }

// IsBroadcast tells whether all bits are set.
func (m MAC) IsBroadcast() bool { return m == 1<<48-1 }

// Destination reads the receiver's address; frame must hold HeaderLen bytes.
func Destination(frame []byte) MAC { return FromBytes([6]byte(frame)) }

// Source reads the sender's address; frame must hold HeaderLen bytes.
func Source(frame []byte) MAC { return FromBytes([6]byte(frame[6:])) }
