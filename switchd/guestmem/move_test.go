package guestmem

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMoveAll compares every implementation with what a move means, byte for byte, also around the frame.
func TestMoveAll(t *testing.T) {
	for name, move := range implementations() {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(3, 9))
			buffer, err := NewBuffer(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			defer buffer.Close()
			all := buffer.Bytes()
			lengths := []int{14, 15, 16, 17, 31, 32, 33, 60, 63, 64, 65, 127, 128, 129, 130, 255, 256, 257, 1514, 9000}
			for range 300 {
				for i := range all {
					all[i] = byte(rnd.Uint32())
				}
				var moves []Move
				want := append([]byte(nil), all...)
				src, dst := rnd.IntN(64), 1<<19+rnd.IntN(64)
				for range 1 + rnd.IntN(20) {
					n := lengths[rnd.IntN(len(lengths))]
					if rnd.IntN(3) == 0 {
						n = 14 + rnd.IntN(300)
					}
					skip := 10 + 2*rnd.IntN(2)
					if rnd.IntN(2) == 0 { // the header is right already
						header(all[dst:], skip)
						header(want[dst:], skip)
					}
					m := Move{Dst: buffer.Addr(dst), Src: buffer.Addr(src), Low: rnd.Uint64(), High: rnd.Uint64(), Len: uint32(n), Skip: uint32(skip)}
					m.High = m.High&^0xffff | m.Low>>48 // they overlap by two bytes
					moves = append(moves, m)
					header(want[dst:], skip)
					copy(want[dst+skip:], all[src:src+n])
					binary.LittleEndian.PutUint64(want[dst+skip:], m.Low)
					binary.LittleEndian.PutUint64(want[dst+skip+6:], m.High)
					src += n + rnd.IntN(3)
					dst += skip + n + rnd.IntN(3)
				}
				move(moves)
				if !bytes.Equal(all, want) {
					for i := range all {
						if all[i] != want[i] {
							t.Fatalf("byte %#x is %#x, want %#x, after %+v", i, all[i], want[i], moves)
						}
					}
				}
			}
		})
	}
}

func header(b []byte, skip int) {
	clear(b[:10])
	if skip == 12 {
		b[10], b[11] = 1, 0
	}
}

// TestMoveFaults: a sender's or receiver's file is truncated; the fault names its address, in the assembly as well.
func TestMoveFaults(t *testing.T) {
	for name, move := range implementations() {
		for _, n := range []int{14, 15, 20, 40, 64, 100, 128, 200, 1500} {
			for _, victim := range []string{"source", "destination"} {
				fd := memfd(t, 0x4000)
				m, err := Map([]RegionSpec{{Size: 0x4000, FD: fd}})
				if err != nil {
					t.Fatal(err)
				}
				buffer, err := NewBuffer(0x4000)
				if err != nil {
					t.Fatal(err)
				}
				var hint Hint
				p, _ := m.Translate(0x1000, 0x2000, &hint)
				mv := Move{Dst: buffer.Addr(64), Src: p, Len: uint32(n), Skip: 12}
				if victim == "destination" {
					mv.Dst, mv.Src = p, buffer.Addr(64)
				}
				if err := unix.Ftruncate(fd, 0); err != nil {
					t.Fatal(err)
				}
				fault := Contain(func() { move([]Move{mv, mv}) })
				// Of 14 bytes nothing is read from the source: the header was copied before.
				if none := victim == "source" && n == 14; none != (fault == nil) || fault != nil && !m.Contains(fault.Addr) {
					t.Errorf("%s, %d bytes, %s gone: fault %v", name, n, victim, fault)
				}
				buffer.Close()
				m.Close()
			}
		}
	}
}

func BenchmarkMove(b *testing.B) {
	for name, move := range implementations() {
		for _, size := range []int{60, 256, 1514} {
			b.Run(fmt.Sprintf("%s/size=%d", name, size), func(b *testing.B) {
				buffer, err := NewBuffer(64 * 4416)
				if err != nil {
					b.Fatal(err)
				}
				defer buffer.Close()
				moves := make([]Move, 64)
				for i := range moves {
					moves[i] = Move{Dst: buffer.Addr(4416 * i), Src: buffer.Addr(4096*i + 2048), Len: uint32(size), Skip: 12}
				}
				b.ReportAllocs()
				for b.Loop() {
					move(moves)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/frame")
			})
		}
	}
}
