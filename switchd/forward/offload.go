package forward

import (
	"encoding/binary"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// virtio-net header fields (virtio 1.2, 5.1.6.1).
const (
	VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
	VIRTIO_NET_HDR_GSO_NONE     = 0
	VIRTIO_NET_HDR_GSO_TCPV4    = 1
	VIRTIO_NET_HDR_GSO_TCPV6    = 4
	VIRTIO_NET_HDR_GSO_ECN      = 0x80
)

// offload is what a sender leaves to others: the checksum, the segmentation. The zero value asks for nothing.
type offload struct {
	flags, gsoType                         uint8
	hdrLen, gsoSize, csumStart, csumOffset uint16
}

// offloads is a set of kinds of requests: those that a receiver takes as they are, or that a sender may make.
type offloads struct{ csum, tso4, tso6, ecn bool }

func acceptedOffloads(f virtio.Features) offloads {
	return offloads{
		csum: f.Has(virtio.VIRTIO_NET_F_GUEST_CSUM), tso4: f.Has(virtio.VIRTIO_NET_F_GUEST_TSO4),
		tso6: f.Has(virtio.VIRTIO_NET_F_GUEST_TSO6), ecn: f.Has(virtio.VIRTIO_NET_F_GUEST_ECN),
	}
}

// leftOffloads is what a sender has negotiated to leave to others.
func leftOffloads(f virtio.Features) offloads {
	return offloads{
		csum: f.Has(virtio.VIRTIO_NET_F_CSUM), tso4: f.Has(virtio.VIRTIO_NET_F_HOST_TSO4),
		tso6: f.Has(virtio.VIRTIO_NET_F_HOST_TSO6), ecn: f.Has(virtio.VIRTIO_NET_F_HOST_ECN),
	}
}

// readOffload reads the virtio-net header of a sender that negotiated offloads, once.
func readOffload(segments []guestmem.Segment, header int) offload {
	var h [12]byte
	guestmem.ReadSegments(h[:header], segments, 0)
	o := offload{flags: h[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM, gsoType: h[1]}
	if o.gsoType != VIRTIO_NET_HDR_GSO_NONE {
		o.hdrLen, o.gsoSize = binary.LittleEndian.Uint16(h[2:]), binary.LittleEndian.Uint16(h[4:])
	}
	if o.flags != 0 {
		o.csumStart, o.csumOffset = binary.LittleEndian.Uint16(h[6:]), binary.LittleEndian.Uint16(h[8:])
	}
	return o
}

func (o *offload) none() bool     { return o.flags|o.gsoType == 0 }
func (o *offload) segments() bool { return o.gsoType != VIRTIO_NET_HDR_GSO_NONE }

// pieces is how many segments a frame of that length asks to be cut into; 0 if it is to stay whole.
func (o *offload) pieces(length int) int {
	if !o.segments() {
		return 0
	}
	return length/int(o.gsoSize) + 1
}

// leastTCP is the length of a TCP header without options in bytes.
const leastTCP = 20

// plausible checks the fields against the frame's length. A checksum that begins in the Ethernet header would let the sender change, at the
// receiver, addresses that were judged here. Segments, whoever makes them, must be neither so short that one frame becomes a flood nor longer
// than frames may be (maxFrame).
func (o *offload) plausible(length, maxFrame int) bool {
	if o.flags != 0 && (o.csumStart < headerLen || int(o.csumStart)+int(o.csumOffset)+2 > length) {
		return false
	}
	switch o.gsoType &^ VIRTIO_NET_HDR_GSO_ECN {
	case VIRTIO_NET_HDR_GSO_NONE:
		return o.gsoType == 0
	case VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6:
		return o.flags != 0 && o.gsoSize >= ether.MinSegment &&
			min(length, int(o.csumStart)+leastTCP+int(o.gsoSize)) <= maxFrame
	default:
		return false // UFO and USO were not offered
	}
}

// allow tells whether the set has all that is asked for.
func (a *offloads) allow(o *offload) bool {
	switch {
	case o.none():
		return true
	case !a.csum, o.gsoType&VIRTIO_NET_HDR_GSO_ECN != 0 && !a.ecn:
		return false
	}
	switch o.gsoType &^ VIRTIO_NET_HDR_GSO_ECN {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return a.tso4
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return a.tso6
	}
	return true
}

// header is the virtio-net header that passes the request on.
func (o *offload) header(buffers uint16) (h [12]byte) {
	h[0], h[1] = o.flags, o.gsoType
	binary.LittleEndian.PutUint16(h[2:], o.hdrLen)
	binary.LittleEndian.PutUint16(h[4:], o.gsoSize)
	binary.LittleEndian.PutUint16(h[6:], o.csumStart)
	binary.LittleEndian.PutUint16(h[8:], o.csumOffset)
	binary.LittleEndian.PutUint16(h[10:], buffers)
	return h
}
