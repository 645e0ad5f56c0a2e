package ether

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

func TestMAC(t *testing.T) {
	m, err := ParseMAC("52:54:00:12:34:56")
	if err != nil || m != 0x525400123456 || m.String() != "52:54:00:12:34:56" || FromBytes(m.Bytes()) != m {
		t.Errorf("%#x, %v, %v", uint64(m), m, err)
	}
	for _, bad := range []string{"", "52:54", "52:54:00:12:34:56:78:9a", "zz:54:00:12:34:56"} {
		if _, err := ParseMAC(bad); err == nil {
			t.Errorf("%q was taken for an address", bad)
		}
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
	for _, c := range []struct{ start, offset uint16 }{{60, 0}, {59, 0}, {0xffff, 0xffff}, {0, 59}} {
		if err := CompleteChecksum(make([]byte, 60), c.start, c.offset); !errors.Is(err, ErrOffload) {
			t.Errorf("%+v: %v, want ErrOffload", c, err)
		}
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

func FuzzSegment(f *testing.F) {
	rnd := rand.New(rand.NewPCG(5, 5))
	for _, v6 := range []bool{false, true} {
		frame, start := tcpFrame(rnd, v6, false, 100)
		f.Add(frame, start, 40)
	}
	f.Fuzz(func(t *testing.T, frame []byte, start, size int) {
		if start < 0 || start > 0xffff || size < 0 || size > 0xffff || len(frame) > 1<<16 || size > 0 && len(frame)/size > 1000 {
			return
		}
		total := 0
		err := Segment(frame, start, size, make([]byte, 128<<10), func(s []byte) { total += len(s) })
		if err == nil && total < len(frame) {
			t.Errorf("%d bytes became %d", len(frame), total)
		}
		_ = CompleteChecksum(frame, uint16(start), uint16(size))
	})
}
