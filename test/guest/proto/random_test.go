package proto

import (
	"bytes"
	"testing"
)

func TestRandomIsTheSameInAnyPieces(t *testing.T) {
	whole := make([]byte, 4096)
	NewRandom(7).Fill(whole)
	pieces := make([]byte, 4096)
	r := NewRandom(7)
	for done, step := 0, 8; done < len(pieces); step += 8 {
		end := min(done+step, len(pieces))
		r.Fill(pieces[done:end])
		done = end
	}
	if !bytes.Equal(whole, pieces) {
		t.Error("the stream depends on how it is read")
	}
	tail := make([]byte, 13)
	NewRandom(7).Fill(tail)
	if !bytes.Equal(tail, whole[:13]) {
		t.Error("a length that is no multiple of eight changes the bytes")
	}
}

func TestRandomDiffersBySeed(t *testing.T) {
	seen := map[string]uint64{}
	for seed := range uint64(1000) {
		p := make([]byte, 16)
		NewRandom(seed).Fill(p)
		if other, ok := seen[string(p)]; ok {
			t.Fatalf("seeds %d and %d give the same bytes", seed, other)
		}
		seen[string(p)] = seed
	}
	var zero Random
	p := make([]byte, 64)
	zero.Fill(p)
	if bytes.Equal(p, make([]byte, 64)) {
		t.Error("the zero value gives zeros")
	}
}
