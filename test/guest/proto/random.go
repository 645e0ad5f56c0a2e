package proto

import "encoding/binary"

// Random is a stream of pseudo-random bytes that costs almost nothing to make, also under an emulated processor
// (xorshift64*, eight bytes a step). It is not for secrets. The zero value is a valid stream.
type Random struct {
	state uint64
}

// NewRandom returns the stream that belongs to seed.
func NewRandom(seed uint64) *Random {
	// Seeds close to each other must not give streams close to each other, and zero is a fixed point.
	s := (seed + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	if s == 0 {
		s = 1
	}
	return &Random{state: s}
}

// Fill fills p with the next bytes of the stream. Only the last call may have a length that is no multiple of eight:
// otherwise the rest of its last step is lost.
func (r *Random) Fill(p []byte) {
	x := r.state
	if x == 0 {
		x = 1
	}
	for len(p) >= 8 {
		x ^= x >> 12
		x ^= x << 25
		x ^= x >> 27
		binary.LittleEndian.PutUint64(p, x*0x2545f4914f6cdd1d)
		p = p[8:]
	}
	if len(p) > 0 {
		var last [8]byte
		x ^= x >> 12
		x ^= x << 25
		x ^= x >> 27
		binary.LittleEndian.PutUint64(last[:], x*0x2545f4914f6cdd1d)
		copy(p, last[:])
	}
	r.state = x
}
