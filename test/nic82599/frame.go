package nic82599

import "encoding/binary"

// layers is where the parts of a frame lie, for checksums, hashes and packet types.
type layers struct {
	vlan   int // offset of the tag's TCI, 0 without one
	l3, l4 int // offsets; 0 for none
	ipv6   bool
	proto  byte // 6 TCP, 17 UDP, 0 other or a fragment
	end    int  // of the IP packet
}

func parse(f []byte) (l layers) {
	if len(f) < 14 {
		return l
	}
	at, kind := 12, binary.BigEndian.Uint16(f[12:])
	if kind == 0x8100 && len(f) >= 18 {
		l.vlan = 14
		at, kind = 16, binary.BigEndian.Uint16(f[16:])
	}
	at += 2
	switch {
	case kind == 0x0800 && len(f) >= at+20 && f[at]>>4 == 4:
		header, total := int(f[at]&15)*4, int(binary.BigEndian.Uint16(f[at+2:]))
		if header < 20 || total < header || at+total > len(f) {
			return l
		}
		l.l3, l.end = at, at+total
		if fragment := binary.BigEndian.Uint16(f[at+6:]) & 0x3fff; fragment == 0 {
			l.l4, l.proto = at+header, f[at+9]
		}
	case kind == 0x86DD && len(f) >= at+40 && f[at]>>4 == 6:
		total := 40 + int(binary.BigEndian.Uint16(f[at+4:]))
		if at+total > len(f) {
			return l
		}
		l.l3, l.end, l.ipv6, l.l4, l.proto = at, at+total, true, at+40, f[at+6]
	}
	if l.proto == 6 && l.end-l.l4 < 20 || l.proto == 17 && l.end-l.l4 < 8 {
		l.proto = 0
	}
	if l.proto != 6 && l.proto != 17 {
		l.proto = 0
	}
	return l
}

// sum adds 16-bit words as the Internet checksum does (RFC 1071).
func sum(total uint32, b []byte) uint32 {
	for len(b) >= 2 {
		total += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		total += uint32(b[0]) << 8
	}
	return total
}

func fold(total uint32) uint16 {
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return uint16(total)
}

// pseudo is the sum of the pseudo header of a TCP or UDP packet.
func (l layers) pseudo(f []byte) uint32 {
	if l.ipv6 {
		return sum(uint32(l.end-l.l4)+uint32(l.proto), f[l.l3+8:l.l3+40])
	}
	return sum(uint32(l.end-l.l4)+uint32(l.proto), f[l.l3+12:l.l3+20])
}

// ipGood and l4Good check a frame's checksums.
func (l layers) ipGood(f []byte) bool { return fold(sum(0, f[l.l3:l.l3+int(f[l.l3]&15)*4])) == 0xffff }
func (l layers) l4Good(f []byte) bool { return fold(sum(l.pseudo(f), f[l.l4:l.end])) == 0xffff }

// unchecked is a UDP packet over IPv4 without a checksum.
func (l layers) unchecked(f []byte) bool {
	return l.proto == 17 && !l.ipv6 && binary.BigEndian.Uint16(f[l.l4+6:]) == 0
}

// untag takes a VLAN tag out and gives it; ok tells whether there was one.
func untag(f []byte) (rest []byte, tci uint16, ok bool) {
	if len(f) < 18 || binary.BigEndian.Uint16(f[12:]) != 0x8100 {
		return f, 0, false
	}
	tci = binary.BigEndian.Uint16(f[14:])
	rest = append(append(make([]byte, 0, len(f)-4), f[:12]...), f[16:]...)
	return rest, tci, true
}

// tag puts a VLAN tag in.
func tag(f []byte, tci uint16) []byte {
	out := append(make([]byte, 0, len(f)+4), f[:12]...)
	out = append(out, 0x81, 0x00, byte(tci>>8), byte(tci))
	return append(out, f[12:]...)
}
