package ether

import (
	"encoding/binary"
	"fmt"
	"math"
)

// TCP flags that belong to one segment only, and where the header keeps what segmentation changes (RFC 9293).
const (
	tcpFIN, tcpPSH, tcpCWR = 0x01, 0x08, 0x80
	tcpSeq, tcpFlags       = 4, 13
	tcpChecksum            = 16
	protocolTCP            = 6
)

// MinSegment is the least payload, in bytes, that Segment cuts a frame into (but for the last piece). Linux sends no smaller one; without a
// bound, one frame of 64 KiB would cost the switch 65 thousand and the other ports their share of it.
const MinSegment = 48

// headers are the offsets in a TCP frame.
type headers struct {
	ip, tcp, payload int
	v6               bool
}

// parseTCP finds the headers of a TCP frame. csumStart is where the sender says that TCP begins; extension headers lie before it.
func parseTCP(frame []byte, csumStart int) (h headers, err error) {
	h.ip, h.tcp = payloadOffset(frame), csumStart
	if len(frame) < h.ip+20 || h.tcp < h.ip+20 || len(frame) < h.tcp+20 {
		return h, fmt.Errorf("%w: no room for IP and TCP headers in %d bytes", ErrOffload, len(frame))
	}
	switch kind, ip := binary.BigEndian.Uint16(frame[h.ip-2:]), frame[h.ip:]; {
	case kind == TypeIPv4 && ip[0]>>4 == 4:
		if ihl := int(ip[0]&0xf) * 4; h.tcp != h.ip+ihl || ip[9] != protocolTCP {
			return h, fmt.Errorf("%w: IPv4 header of %d bytes, protocol %d; TCP said to be at %d", ErrOffload, ihl, ip[9], h.tcp)
		}
	case kind == TypeIPv6 && ip[0]>>4 == 6:
		h.v6 = true
		if h.tcp < h.ip+40 {
			return h, fmt.Errorf("%w: TCP header inside the IPv6 header", ErrOffload)
		}
	default:
		return h, fmt.Errorf("%w: segmentation of EtherType %#04x, IP version %d", ErrOffload, kind, ip[0]>>4)
	}
	h.payload = h.tcp + int(frame[h.tcp+12]>>4)*4
	if h.payload < h.tcp+20 || h.payload > len(frame) {
		return h, fmt.Errorf("%w: TCP header of %d bytes", ErrOffload, h.payload-h.tcp)
	}
	return h, nil
}

// Segment cuts a TCP frame into segments of size payload bytes, as a NIC would (virtio 1.2, 5.1.6.2, GSO_TCPV4 and GSO_TCPV6): sequence
// numbers, IPv4 identifications, lengths and checksums are made; FIN and PSH stay on the last segment, CWR on the first. Each is built in
// scratch, which must hold the headers and size bytes, and given to emit, which may use it until it returns. The frame is not changed.
// csumStart and size are the sender's; what does not fit the frame, or is under MinSegment, is ErrOffload before anything was emitted.
func Segment(frame []byte, csumStart int, size int, scratch []byte, emit func(segment []byte)) error {
	h, err := parseTCP(frame, csumStart)
	if err != nil {
		return err
	}
	if size < MinSegment {
		return fmt.Errorf("%w: segments of %d bytes; the least is %d", ErrOffload, size, MinSegment)
	}
	payload := frame[h.payload:]
	size = min(size, len(payload))
	if longest := h.payload + size; longest-h.ip > math.MaxUint16 || len(scratch) < longest {
		return fmt.Errorf("%w: segments of %d bytes are too long for an IP packet or for the scratch memory", ErrOffload, size)
	}
	for i, off := 0, 0; off < len(payload) || i == 0; i, off = i+1, off+size {
		part := payload[off:min(off+size, len(payload))]
		out := scratch[:h.payload+len(part)]
		copy(out, frame[:h.payload])
		copy(out[h.payload:], part)
		h.adjust(out, i, off, off+len(part) == len(payload))
		emit(out)
	}
	return nil
}

// adjust makes the headers of segment i, whose payload begins off bytes into the whole.
func (h headers) adjust(out []byte, i, off int, last bool) {
	ip, tcp := out[h.ip:], out[h.tcp:]
	if h.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(i))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, out[h.ip:h.tcp])))
	}
	binary.BigEndian.PutUint32(tcp[tcpSeq:], binary.BigEndian.Uint32(tcp[tcpSeq:])+uint32(off))
	if !last {
		tcp[tcpFlags] &^= tcpFIN | tcpPSH
	}
	if i > 0 {
		tcp[tcpFlags] &^= tcpCWR
	}
	binary.BigEndian.PutUint16(tcp[tcpChecksum:], 0)
	binary.BigEndian.PutUint16(tcp[tcpChecksum:], ^fold(sum(h.pseudo(ip, len(tcp)), tcp)))
}

// pseudo is the sum of the pseudo header.
func (h headers) pseudo(ip []byte, length int) uint32 {
	addresses := ip[12:20]
	if h.v6 {
		addresses = ip[8:40]
	}
	return sum(uint32(protocolTCP)+uint32(length), addresses)
}
