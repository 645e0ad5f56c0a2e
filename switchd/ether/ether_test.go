package ether

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

func TestMAC(t *testing.T) {
	m := FromBytes([6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56})
	if m != 0x525400123456 || m.String() != "52:54:00:12:34:56" || FromBytes(m.Bytes()) != m {
		t.Errorf("%#x, %v", uint64(m), m)
	}
	for _, c := range []struct {
		mac              MAC
		multi, broadcast bool
	}{{0x525400123456, false, false}, {0x01005e000001, true, false}, {0x333300000001, true, false}, {0xffffffffffff, true, true}} {
		if c.mac.IsMulticast() != c.multi || c.mac.IsBroadcast() != c.broadcast {
			t.Errorf("%v: group %v, broadcast %v", c.mac, c.mac.IsMulticast(), c.mac.IsBroadcast())
		}
	}
}

func TestAddressesOfAFrame(t *testing.T) {
	frame := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x08, 0x00}
	if d, s := Destination(frame), Source(frame); d != 0x010203040506 || s != 0x0708090a0b0c {
		t.Errorf("destination %v, source %v", d, s)
	}
	if !MAC(0).IsZero() || MAC(1).IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestTag(t *testing.T) {
	header := func(rest ...byte) []byte { return append(make([]byte, 12), rest...) }
	for name, c := range map[string]struct {
		frame  []byte
		vlan   VLAN
		tagged bool
	}{
		"none":                       {header(8, 0, 0x03, 0xeb, 8, 0), 0, false},
		"802.1Q, priority 7 and DEI": {header(0x81, 0, 0xf3, 0xeb, 8, 0), 1003, true},
		"802.1ad":                    {header(0x88, 0xa8, 0x0f, 0xff, 0x81, 0, 0, 5), 4095, true},
		"VLAN 0":                     {header(0x81, 0, 0xe0, 0, 8, 0), 0, true},
		"cut in the tag":             {header(0x81, 0, 0x03, 0xeb, 8), 0, false},
		"empty":                      {nil, 0, false},
	} {
		if vlan, tagged := Tag(c.frame); vlan != c.vlan || tagged != c.tagged {
			t.Errorf("%s: VLAN %d, tagged %v; want %d, %v", name, vlan, tagged, c.vlan, c.tagged)
		}
	}
}

func TestPutTag(t *testing.T) {
	h := append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x08, 0x00}, make([]byte, 4)...)
	PutTag(h, 1003)
	if want := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x81, 0x00, 0x03, 0xeb, 0x08, 0x00}; !bytes.Equal(h, want) {
		t.Errorf("%x, want %x", h, want)
	}
}

// onesSum adds 16-bit words the slow way: what a receiver does to check.
func onesSum(parts ...[]byte) uint16 {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	s := uint64(0)
	for i := 0; i < len(b); i += 2 {
		s += uint64(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// tcpFrame makes a frame with a partial checksum, as a guest with checksum offload sends it.
func tcpFrame(rnd *rand.Rand, v6, tagged bool, payload int) (frame []byte, start int) {
	f := make([]byte, 12)
	if tagged {
		f = append(f, 0x81, 0, 0, 7)
	}
	ip := len(f) + 2
	if v6 {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(20+payload))
		f = append(f, 6, 64)
		for range 32 {
			f = append(f, byte(rnd.Uint32()))
		}
	} else {
		f = append(f, 8, 0, 0x45, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(40+payload))
		f = append(f, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0)
		for range 8 {
			f = append(f, byte(rnd.Uint32()))
		}
	}
	start = len(f)
	f = append(f, 0, 1, 0, 2, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x10|tcpFIN|tcpPSH|tcpCWR, 0, 9, 0, 0, 0, 0)
	for range payload {
		f = append(f, byte(rnd.Uint32()))
	}
	binary.BigEndian.PutUint16(f[start+tcpChecksum:], onesSum(pseudoOf(f, ip, start, v6)))
	return f, start
}

func pseudoOf(f []byte, ip, tcp int, v6 bool) []byte {
	addresses := f[ip+12 : ip+20]
	if v6 {
		addresses = f[ip+8 : ip+40]
	}
	p := append([]byte(nil), addresses...)
	return binary.BigEndian.AppendUint32(p, uint32(len(f)-tcp)+protocolTCP)
}

func TestCompleteChecksum(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	for _, v6 := range []bool{false, true} {
		for payload := range 70 {
			f, start := tcpFrame(rnd, v6, false, payload)
			if err := CompleteChecksum(f, uint16(start), tcpChecksum); err != nil {
				t.Fatal(err)
			}
			if s := onesSum(pseudoOf(f, HeaderLen, start, v6), f[start:]); s != 0xffff {
				t.Fatalf("v6=%v payload=%d: the receiver computes %#x", v6, payload, s)
			}
		}
	}
}

// TestChecksumStaysInThePayload: a checksum written over the addresses or the tag would undo what the switch checked before.
func TestChecksumStaysInThePayload(t *testing.T) {
	plain := append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x08, 0x00}, make([]byte, 46)...)
	tagged := append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x81, 0x00, 0x03, 0xeb, 0x08, 0x00}, make([]byte, 42)...)
	double := append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x88, 0xa8, 0, 1, 0x81, 0x00, 0x03, 0xeb, 0x08, 0x00}, make([]byte, 38)...)
	for _, c := range []struct {
		frame         []byte
		start, offset uint16
		good          bool
	}{
		{plain, 0, 6, false}, {plain, 13, 1, false}, {plain, 14, 0, true}, {plain, 58, 0, true}, {plain, 14, 44, true},
		{plain, 59, 0, false}, {plain, 60, 0, false}, {plain, 14, 45, false}, {plain, 0xffff, 0xffff, false}, {plain, 14, 0xffff, false},
		{tagged, 14, 0, false}, {tagged, 17, 1, false}, {tagged, 18, 0, true}, {double, 18, 0, false}, {double, 22, 0, true},
		{plain[:14], 14, 0, false}, {plain[:10], 0, 6, false}, {nil, 0, 0, false},
	} {
		before := bytes.Clone(c.frame)
		err := CompleteChecksum(c.frame, c.start, c.offset)
		if c.good != (err == nil) || !c.good && !errors.Is(err, ErrOffload) {
			t.Errorf("%d bytes, start %d, offset %d: %v, want success %v", len(c.frame), c.start, c.offset, err, c.good)
		}
		if !c.good && !bytes.Equal(before, c.frame) {
			t.Errorf("%d bytes, start %d, offset %d: refused, and yet written", len(before), c.start, c.offset)
		}
	}
}

// TestSumProperty compares the wide sum with the one by 16-bit words, at all lengths and with many carries.
func TestSumProperty(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 8))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32()) | byte(n%3*0x7f) // sparse, dense and ordinary
		}
		if got, want := fold(sum(0x1ffff, b)), onesSum([]byte{0, 1, 0xff, 0xff}, b); got != want {
			t.Fatalf("%x: %#x, want %#x", b, got, want)
		}
	}
	ones := bytes.Repeat([]byte{0xff}, 1<<16)
	if got := fold(sum(0, ones)); got != 0xffff {
		t.Errorf("64 KiB of ones: %#x", got)
	}
}

// TestSegment puts the segments together again and checks each as a receiver would.
func TestSegment(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	for _, v6 := range []bool{false, true} {
		for _, tagged := range []bool{false, true} {
			for _, payload := range []int{0, 1, 1460, 1461, 30000, 65000 - 60} {
				f, start := tcpFrame(rnd, v6, tagged, payload)
				original := bytes.Clone(f)
				ip := HeaderLen
				if tagged {
					ip += TagLen
				}
				var got []byte
				i, last := 0, (payload-1)/1460
				if payload == 0 {
					last = 0
				}
				err := Segment(f, start, 1460, make([]byte, 2000), func(s []byte) {
					if sum := onesSum(pseudoOf(s, ip, start, v6), s[start:]); sum != 0xffff {
						t.Fatalf("segment %d: TCP checksum: %#x", i, sum)
					}
					if !v6 {
						if onesSum(s[ip:ip+20]) != 0xffff || int(binary.BigEndian.Uint16(s[ip+2:])) != len(s)-ip ||
							binary.BigEndian.Uint16(s[ip+4:]) != 0x1234+uint16(i) {
							t.Fatalf("segment %d: IPv4 header %x", i, s[ip:ip+20])
						}
					} else if int(binary.BigEndian.Uint16(s[ip+4:])) != len(s)-ip-40 {
						t.Fatalf("segment %d: IPv6 length", i)
					}
					if seq := binary.BigEndian.Uint32(s[start+4:]); seq != 0xfffffff0+uint32(len(got)) {
						t.Fatalf("segment %d: sequence %#x", i, seq)
					}
					flags := s[start+13]
					if (flags&tcpCWR != 0) != (i == 0) || (flags&(tcpFIN|tcpPSH) != 0) != (i == last) {
						t.Fatalf("segment %d of %d: flags %#x", i, last+1, flags)
					}
					got = append(got, s[start+20:]...)
					i++
				})
				if err != nil || !bytes.Equal(got, original[start+20:]) || i != last+1 {
					t.Fatalf("v6=%v tagged=%v payload=%d: %d segments, %v", v6, tagged, payload, i, err)
				}
				if !bytes.Equal(f, original) {
					t.Error("the frame was changed")
				}
			}
		}
	}
}

func TestSegmentRefuses(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 6))
	for name, c := range map[string]struct {
		v6    bool
		size  int
		spoil func(f []byte, start int) ([]byte, int)
	}{
		"no size":                    {size: 0},
		"a size below zero":          {size: -1},
		"a flood of tiny segments":   {size: MinSegment - 1},
		"no IP":                      {size: 1000, spoil: func(f []byte, s int) ([]byte, int) { f[12] = 0x12; return f, s }},
		"IPv6 in an IPv4 frame":      {size: 1000, spoil: func(f []byte, s int) ([]byte, int) { f[14] = 0x65; return f, s }},
		"IPv4 in an IPv6 frame":      {size: 1000, v6: true, spoil: func(f []byte, s int) ([]byte, int) { f[14] = 0x45; return f, s }},
		"UDP":                        {size: 1000, spoil: func(f []byte, s int) ([]byte, int) { f[23] = 17; return f, s }},
		"TCP behind its place":       {size: 1000, spoil: func(f []byte, s int) ([]byte, int) { return f, s + 4 }},
		"TCP in the IPv4 header":     {size: 1000, spoil: func(f []byte, s int) ([]byte, int) { return f, s - 4 }},
		"TCP in the IPv6 header":     {size: 1000, v6: true, spoil: func(f []byte, s int) ([]byte, int) { return f, s - 4 }},
		"TCP in the Ethernet header": {size: 1000, spoil: func(f []byte, _ int) ([]byte, int) { return f, 0 }},
		"TCP outside":                {size: 1000, spoil: func(f []byte, _ int) ([]byte, int) { return f, 0xffff }},
		"a short TCP header":         {size: 1000, spoil: func(f []byte, s int) ([]byte, int) { f[s+12] = 0x40; return f, s }},
		"a TCP header past the end":  {size: 1000, spoil: func(f []byte, s int) ([]byte, int) { f[s+12] = 0xf0; return f[:s+30], s }},
		"an empty frame":             {size: 1000, spoil: func([]byte, int) ([]byte, int) { return nil, 34 }},
		"no room in the scratch":     {size: 5000},
	} {
		f, start := tcpFrame(rnd, c.v6, false, 5000)
		if c.spoil != nil {
			f, start = c.spoil(f, start)
		}
		emitted := 0
		if err := Segment(f, start, c.size, make([]byte, 2000), func([]byte) { emitted++ }); !errors.Is(err, ErrOffload) || emitted != 0 {
			t.Errorf("%s: %v after %d segments, want ErrOffload and none", name, err, emitted)
		}
	}
}

// TestSegmentLongerThanIP: more than an IP packet's length field can say must not wrap around in it.
func TestSegmentLongerThanIP(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	f, start := tcpFrame(rnd, false, false, 70000)
	if err := Segment(f, start, 0xffff, make([]byte, 128<<10), func([]byte) {}); !errors.Is(err, ErrOffload) {
		t.Errorf("%v, want ErrOffload", err)
	}
}

func FuzzSegment(f *testing.F) {
	rnd := rand.New(rand.NewPCG(5, 5))
	for _, v6 := range []bool{false, true} {
		frame, start := tcpFrame(rnd, v6, false, 100)
		f.Add(frame, start, 64)
	}
	scratch := make([]byte, 128<<10)
	f.Fuzz(func(t *testing.T, frame []byte, start, size int) {
		if len(frame) > 1<<16 {
			return
		}
		pieces, total := 0, 0
		err := Segment(frame, start, size, scratch, func(s []byte) { pieces, total = pieces+1, total+len(s) })
		switch {
		case err != nil && (pieces > 0 || !errors.Is(err, ErrOffload)):
			t.Errorf("%d segments, then %v", pieces, err)
		case err == nil && (total < len(frame) || pieces > len(frame)/MinSegment+1):
			t.Errorf("%d bytes became %d in %d segments", len(frame), total, pieces)
		}
	})
}

// FuzzCompleteChecksum: whatever is asked for, the header and the tags stay, and at most two bytes change.
func FuzzCompleteChecksum(f *testing.F) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, tagged := range []bool{false, true} {
		frame, start := tcpFrame(rnd, false, tagged, 100)
		f.Add(frame, uint16(start), uint16(tcpChecksum))
	}
	f.Fuzz(func(t *testing.T, frame []byte, start, offset uint16) {
		before := bytes.Clone(frame)
		err := CompleteChecksum(frame, start, offset)
		if err != nil {
			if !errors.Is(err, ErrOffload) || !bytes.Equal(frame, before) {
				t.Errorf("%v; the frame %x became %x", err, before, frame)
			}
			return
		}
		at := int(start) + int(offset)
		if at < payloadOffset(before) || !bytes.Equal(frame[:at], before[:at]) || !bytes.Equal(frame[at+2:], before[at+2:]) {
			t.Errorf("a checksum at %d: the frame %x became %x", at, before, frame)
		}
	})
}

func BenchmarkCompleteChecksum(b *testing.B) {
	frame, start := tcpFrame(rand.New(rand.NewPCG(1, 1)), false, false, 1460)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		_ = CompleteChecksum(frame, uint16(start), tcpChecksum)
	}
}

func BenchmarkSegment(b *testing.B) {
	frame, start := tcpFrame(rand.New(rand.NewPCG(1, 1)), false, false, 64000)
	scratch := make([]byte, 2000)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		_ = Segment(frame, start, 1460, scratch, func([]byte) {})
	}
}
