// Package pinger asks by ARP who has an address and sends ICMP echo requests there, and answers both, frame by frame: for tests where no kernel
// is at hand at one of the two ends. Frames have no FCS; a tag is the caller's affair.
package pinger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Host is one end.
type Host struct {
	MAC [6]byte
	IP  netip.Addr // IPv4
}

// Sizes and values of the protocols (RFC 826, 791, 792).
const (
	etherLen                      = 14
	arpLen                        = 28
	ipLen                         = 20
	icmpLen                       = 8
	typeARP                uint16 = 0x0806
	typeIPv4               uint16 = 0x0800
	arpRequest, arpReply   uint16 = 1, 2
	protoICMP                     = 1
	echoRequest, echoReply        = 8, 0
	minFrame                      = 60
)

var everybody = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func ether(to, from [6]byte, kind uint16, size int) []byte {
	f := make([]byte, etherLen, etherLen+size)
	copy(f, to[:])
	copy(f[6:], from[:])
	binary.BigEndian.PutUint16(f[12:], kind)
	return f
}

func (h Host) arp(op uint16, to, targetMAC [6]byte, target netip.Addr) []byte {
	f := ether(to, h.MAC, typeARP, arpLen)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, byte(op))
	f = append(append(f, h.MAC[:]...), h.IP.AsSlice()...)
	f = append(append(f, targetMAC[:]...), target.AsSlice()...)
	return append(f, make([]byte, minFrame-len(f))...)
}

// Ask is an ARP request for an address.
func (h Host) Ask(target netip.Addr) []byte { return h.arp(arpRequest, everybody, [6]byte{}, target) }

// Found gives the address that an ARP reply to h tells of target.
func (h Host) Found(f []byte, target netip.Addr) (mac [6]byte, ok bool) {
	if len(f) < etherLen+arpLen || binary.BigEndian.Uint16(f[12:]) != typeARP || binary.BigEndian.Uint16(f[20:]) != arpReply ||
		!bytes.Equal(f[:6], h.MAC[:]) || !bytes.Equal(f[28:32], target.AsSlice()) {
		return mac, false
	}
	return [6]byte(f[22:28]), true
}

// Echo is an ICMP echo request with so many bytes of payload; its content depends on the number.
func (h Host) Echo(to Host, number uint16, payload int) []byte {
	f := ether(to.MAC, h.MAC, typeIPv4, ipLen+icmpLen+payload)
	f = append(f, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protoICMP, 0, 0)
	binary.BigEndian.PutUint16(f[etherLen+2:], uint16(ipLen+icmpLen+payload))
	f = append(append(f, h.IP.AsSlice()...), to.IP.AsSlice()...)
	binary.BigEndian.PutUint16(f[etherLen+10:], checksum(f[etherLen:]))
	f = append(f, echoRequest, 0, 0, 0, 0x82, 0x59, byte(number>>8), byte(number))
	for i := range payload {
		f = append(f, byte(int(number)*31+i*7+i>>8))
	}
	binary.BigEndian.PutUint16(f[etherLen+ipLen+2:], checksum(f[etherLen+ipLen:]))
	return f
}

// Answers checks that f is to's whole answer to an echo request of ours: addresses, number, payload, checksums.
func (h Host) Answers(f, request []byte, to Host) error {
	want := append([]byte(nil), request...)
	copy(want, h.MAC[:])
	copy(want[6:], to.MAC[:])
	at := etherLen + ipLen
	copy(want[etherLen+12:], to.IP.AsSlice())
	copy(want[etherLen+16:], h.IP.AsSlice())
	want[at] = echoReply
	want[at+2], want[at+3] = 0, 0
	binary.BigEndian.PutUint16(want[at+2:], checksum(want[at:]))
	switch {
	case len(f) < len(want):
		return fmt.Errorf("%d bytes came back of %d", len(f), len(want))
	case !bytes.Equal(f[:etherLen], want[:etherLen]):
		return fmt.Errorf("header %x, want %x", f[:etherLen], want[:etherLen])
	case checksum(f[etherLen:at]) != 0:
		return fmt.Errorf("header %x of IP: wrong checksum", f[etherLen:at])
	case !bytes.Equal(f[etherLen+12:at], want[etherLen+12:at]):
		return fmt.Errorf("addresses %x, want %x", f[etherLen+12:at], want[etherLen+12:at])
	case !bytes.Equal(f[at:len(want)], want[at:]):
		return fmt.Errorf("the ICMP message differs: %.24x, want %.24x", f[at:len(want)], want[at:])
	}
	return nil
}

// Answer is what h says to a frame: an ARP reply, an echo reply, or nil.
func (h Host) Answer(f []byte) []byte {
	if len(f) < etherLen {
		return nil
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case typeARP:
		if len(f) >= etherLen+arpLen && binary.BigEndian.Uint16(f[20:]) == arpRequest && bytes.Equal(f[38:42], h.IP.AsSlice()) {
			asker := [6]byte(f[22:28])
			return h.arp(arpReply, asker, asker, netip.AddrFrom4([4]byte(f[28:32])))
		}
	case typeIPv4:
		at := etherLen + ipLen
		if len(f) < at+icmpLen || !bytes.Equal(f[:6], h.MAC[:]) || f[etherLen] != 0x45 || f[etherLen+9] != protoICMP || f[at] != echoRequest ||
			!bytes.Equal(f[etherLen+16:at], h.IP.AsSlice()) {
			return nil
		}
		size := int(binary.BigEndian.Uint16(f[etherLen+2:]))
		if size < ipLen+icmpLen || etherLen+size > len(f) || checksum(f[at:etherLen+size]) != 0 {
			return nil
		}
		back := append([]byte(nil), f[:etherLen+size]...)
		copy(back, f[6:12])
		copy(back[6:], h.MAC[:])
		copy(back[etherLen+12:], f[etherLen+16:at])
		copy(back[etherLen+16:], f[etherLen+12:etherLen+16])
		back[at], back[at+2], back[at+3] = echoReply, 0, 0
		binary.BigEndian.PutUint16(back[at+2:], checksum(back[at:]))
		return back
	}
	return nil
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
