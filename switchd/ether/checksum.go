package ether

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// ErrOffload says that an offload request does not fit its frame.
var ErrOffload = errors.New("offload request does not fit the frame")

// sum adds b to a running ones' complement sum (RFC 1071), eight bytes at a time: wider words add up to the same sum once folded.
func sum(s uint32, b []byte) uint32 {
	total, carry := uint64(s), uint64(0)
	for ; len(b) >= 8; b = b[8:] {
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b), carry)
	}
	rest := uint64(0) // fewer than four words
	for ; len(b) >= 2; b = b[2:] {
		rest += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		rest += uint64(b[0]) << 8
	}
	rest += carry + total>>32 + total&0xffffffff
	rest = rest>>32 + rest&0xffffffff
	return uint32(rest>>16 + rest&0xffff)
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// CompleteChecksum finishes a checksum that the sender began (virtio 1.2, 5.1.6.2, NEEDS_CSUM): the field at start+offset holds the sum of
// the pseudo header and becomes the checksum of everything from start on. Both numbers are the sender's: outside the frame, or inside its
// Ethernet header and tags, which the switch has checked and the sender must not change any more, they are ErrOffload.
func CompleteChecksum(frame []byte, start, offset uint16) error {
	at := int(start) + int(offset)
	if int(start) < payloadOffset(frame) || at+2 > len(frame) {
		return fmt.Errorf("%w: checksum of bytes %d.. at %d in a frame of %d", ErrOffload, start, at, len(frame))
	}
	c := ^fold(sum(0, frame[start:]))
	if c == 0 {
		c = 0xffff // UDP: 0 means none (RFC 768); in TCP both are the same number
	}
	binary.BigEndian.PutUint16(frame[at:], c)
	return nil
}
