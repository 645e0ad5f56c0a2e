package pinger

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// Boot is a host that also gives network boot firmware its address (DHCP, RFC 2131) and a script (TFTP, RFC 1350) of less than 512 bytes.
type Boot struct {
	Host
	Clients map[[6]byte]Client
	// Fetched counts the scripts that were acknowledged.
	Fetched int
}

// Client is who boots.
type Client struct {
	IP     netip.Addr
	Script string
}

const (
	protoUDP         = 17
	udpLen           = 8
	portDHCPServer   = 67
	portDHCPClient   = 68
	portTFTP         = 69
	portData         = 6900 // where scripts come from
	dhcpOptions      = 236 + 4
	tftpRRQ, tftpACK = 1, 4
)

// Answer is what it says to a frame, or nil.
func (b *Boot) Answer(f []byte) []byte {
	if back := b.Host.Answer(f); back != nil {
		return back
	}
	at := etherLen + ipLen
	if len(f) < at+udpLen || binary.BigEndian.Uint16(f[12:]) != typeIPv4 || f[etherLen] != 0x45 || f[etherLen+9] != protoUDP {
		return nil
	}
	end := at + int(binary.BigEndian.Uint16(f[at+4:]))
	if end > len(f) || end < at+udpLen {
		return nil
	}
	from, payload := [6]byte(f[6:12]), f[at+udpLen:end]
	sender := netip.AddrFrom4([4]byte(f[etherLen+12:]))
	source := binary.BigEndian.Uint16(f[at:])
	switch binary.BigEndian.Uint16(f[at+2:]) {
	case portDHCPServer:
		return b.lease(from, payload)
	case portTFTP:
		if len(payload) > 4 && payload[1] == tftpRRQ {
			if c, ok := b.Clients[from]; ok {
				data := append([]byte{0, 3, 0, 1}, c.Script...)
				return b.udp(from, sender, portData, source, data)
			}
		}
	case portData:
		if len(payload) >= 4 && payload[1] == tftpACK {
			b.Fetched++
		}
	}
	return nil
}

// lease answers DISCOVER with OFFER and REQUEST with ACK.
func (b *Boot) lease(from [6]byte, ask []byte) []byte {
	c, ok := b.Clients[from]
	if !ok || len(ask) < dhcpOptions {
		return nil
	}
	kind := byte(0)
	for o := ask[dhcpOptions:]; len(o) >= 2 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if o[0] == 53 && o[1] == 1 && len(o) >= 3 {
			kind = o[2]
		}
		if len(o) < 2+int(o[1]) {
			break
		}
		o = o[2+int(o[1]):]
	}
	answer := map[byte]byte{1: 2, 3: 5}[kind]
	if answer == 0 {
		return nil
	}
	m := make([]byte, 236, 300)
	m[0], m[1], m[2] = 2, 1, 6
	copy(m[4:12], ask[4:12]) // xid, secs, flags
	copy(m[16:], c.IP.AsSlice())
	copy(m[20:], b.IP.AsSlice())
	copy(m[28:], from[:])
	copy(m[108:], "script")
	m = append(m, 99, 130, 83, 99, 53, 1, answer, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 54, 4)
	m = append(m, b.IP.AsSlice()...)
	m = append(m, 255)
	m = append(m, make([]byte, 300-len(m))...)
	return b.udp(from, c.IP, portDHCPServer, portDHCPClient, m)
}

// udp makes a datagram; its checksum is left out, as IPv4 allows.
func (b *Boot) udp(to [6]byte, ip netip.Addr, from, port uint16, payload []byte) []byte {
	f := ether(to, b.MAC, typeIPv4, ipLen+udpLen+len(payload))
	f = append(f, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protoUDP, 0, 0)
	binary.BigEndian.PutUint16(f[etherLen+2:], uint16(ipLen+udpLen+len(payload)))
	f = append(append(f, b.IP.AsSlice()...), ip.AsSlice()...)
	binary.BigEndian.PutUint16(f[etherLen+10:], checksum(f[etherLen:]))
	f = binary.BigEndian.AppendUint16(f, from)
	f = binary.BigEndian.AppendUint16(f, port)
	f = binary.BigEndian.AppendUint16(f, uint16(udpLen+len(payload)))
	f = append(append(f, 0, 0), payload...)
	if len(f) < minFrame {
		f = append(f, bytes.Repeat([]byte{0}, minFrame-len(f))...)
	}
	return f
}
