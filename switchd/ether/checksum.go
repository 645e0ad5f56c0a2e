package ether

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrOffload says that an offload request does not fit its frame.
var ErrOffload = errors.New("offload request does not fit the frame")

// sum adds b to a running ones' complement sum (RFC 1071).
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
		s = s&0xffff + s>>16
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s&0xffff + s>>16
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// CompleteChecksum finishes a checksum that the sender began (virtio 1.2, 5.1.6.2, NEEDS_CSUM): the field at start+offset holds the sum of
// the pseudo header and becomes the checksum of everything from start on.
func CompleteChecksum(frame []byte, start, offset uint16) error {
	at := int(start) + int(offset)
	if int(start) > len(frame) || at+2 > len(frame) {
		return fmt.Errorf("%w: checksum of bytes %d.. at %d in a frame of %d", ErrOffload, start, at, len(frame))
	}
	c := ^fold(sum(0, frame[start:]))
	if c == 0 {
		c = 0xffff // UDP: 0 means none (RFC 768); in TCP both are the same number
	}
	binary.BigEndian.PutUint16(frame[at:], c)
	return nil
}
