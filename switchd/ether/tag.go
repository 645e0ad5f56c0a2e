package ether

import "encoding/binary"

// VLAN is a VLAN identifier, 1..4094 where one is meant (IEEE 802.1Q, 9.6).
type VLAN uint16

// MaxVLAN is the highest; 4095 is reserved (IEEE 802.1Q, table 9-2).
const MaxVLAN VLAN = 4094

// VLANRange is the identifiers from First to Last, both included; none if Last is less.
type VLANRange struct{ First, Last VLAN }

// Contains tells whether an identifier is one of them.
func (r VLANRange) Contains(v VLAN) bool { return v >= r.First && v <= r.Last }

// IsTag tells whether an EtherType announces a VLAN tag (802.1Q) or a service tag (802.1ad).
func IsTag(etherType uint16) bool { return etherType == TypeVLAN || etherType == TypeQinQ }

// Tag reads the outermost tag's VLAN, 0 to 4095. A frame that ends before its tag does has none.
func Tag(frame []byte) (vlan VLAN, tagged bool) {
	if len(frame) < HeaderLen+TagLen || !IsTag(binary.BigEndian.Uint16(frame[12:])) {
		return 0, false
	}
	return VLAN(binary.BigEndian.Uint16(frame[14:]) & 0x0fff), true
}

// PutTag inserts an 802.1Q tag with priority 0 into a header of HeaderLen bytes; header must have room for TagLen more.
func PutTag(header []byte, vlan VLAN) {
	header[16], header[17] = header[12], header[13]
	binary.BigEndian.PutUint16(header[12:], TypeVLAN)
	binary.BigEndian.PutUint16(header[14:], uint16(vlan&0x0fff))
}

// payloadOffset is where the Ethernet header and up to two tags end. It may lie beyond a short frame's end.
func payloadOffset(frame []byte) int {
	at := HeaderLen
	for at < HeaderLen+2*TagLen && len(frame) >= at && IsTag(binary.BigEndian.Uint16(frame[at-2:])) {
		at += TagLen
	}
	return at
}
