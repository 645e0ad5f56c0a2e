package pool

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/pool/fake"
)

func TestLook(t *testing.T) {
	k := fake.New(8*bytesize.GiB, 8*bytesize.GiB)
	k.Use(1, 2*bytesize.MiB, 4, 3)
	s, err := Look(k)
	if err != nil {
		t.Fatal(err)
	}
	if s.Default != 2*bytesize.MiB || !slices.Equal(s.Sizes(), []bytesize.Size{bytesize.GiB, 2 * bytesize.MiB}) || len(s.Nodes) != 2 || s.Nodes[1].Memory != 8*bytesize.GiB {
		t.Fatalf("%+v", s)
	}
	if p := s.Total(2 * bytesize.MiB); p.Total != 4 || p.Free != 1 || p.InUse() != 3 {
		t.Fatalf("%+v", p)
	}
	if p := s.Nodes[1].Pool(2 * bytesize.MiB); p.Total != 4 || p.InUse() != 3 {
		t.Fatalf("%+v", p)
	}
}

func TestSet(t *testing.T) {
	k := fake.New(8*bytesize.GiB, 8*bytesize.GiB)
	k.Use(0, 2*bytesize.MiB, 10, 3)
	done, err := Set(k, []Target{{0, 2 * bytesize.MiB, 10}, {1, 2 * bytesize.MiB, 5}, {1, bytesize.GiB, 2}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Done{{Target{1, bytesize.GiB, 2}, 0}, {Target{1, 2 * bytesize.MiB, 5}, 0}}
	if !slices.Equal(done, want) {
		t.Fatalf("%+v", done)
	}
	// Pages in use stay.
	done, err = Set(k, []Target{{0, 2 * bytesize.MiB, 1}})
	if err != nil || len(done) != 1 || done[0].Count != 3 || k.Count(0, 2*bytesize.MiB) != 3 {
		t.Fatalf("%+v %v", done, err)
	}
	if err := Restore(k, want); err != nil || k.Count(1, bytesize.GiB) != 0 || k.Count(1, 2*bytesize.MiB) != 0 {
		t.Fatalf("restore: %v, %d %d", err, k.Count(1, bytesize.GiB), k.Count(1, 2*bytesize.MiB))
	}
}

// TestShort: the kernel gives less without an error; nothing stays.
func TestShort(t *testing.T) {
	k := fake.New(8*bytesize.GiB, 8*bytesize.GiB)
	k.Limit(1, bytesize.GiB, 3)
	k.Use(1, bytesize.GiB, 1, 0)
	_, err := Set(k, []Target{{0, bytesize.GiB, 2}, {1, bytesize.GiB, 4}, {0, 2 * bytesize.MiB, 7}})
	if !errors.Is(err, ErrShort) || !strings.Contains(err.Error(), "3 of 4 pages of 1G on node 1") {
		t.Fatal(err)
	}
	if k.Count(0, bytesize.GiB) != 0 || k.Count(1, bytesize.GiB) != 1 || k.Count(0, 2*bytesize.MiB) != 0 {
		t.Fatalf("left: %d %d %d", k.Count(0, bytesize.GiB), k.Count(1, bytesize.GiB), k.Count(0, 2*bytesize.MiB))
	}
	if _, err := Set(k, []Target{{7, bytesize.GiB, 1}}); err == nil {
		t.Fatal("a node that is not there was accepted")
	}
}

func TestSetOfAKernelWithoutNodes(t *testing.T) {
	k := fake.New(8 * bytesize.GiB)
	k.NoNodes = true
	if done, err := Set(k, []Target{{0, 2 * bytesize.MiB, 5}}); err != nil || len(done) != 1 || k.Count(0, 2*bytesize.MiB) != 5 {
		t.Fatalf("%v %v", done, err)
	}
}
