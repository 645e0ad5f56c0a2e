package virtio

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// TestUnusualButValid: what the specification allows and few drivers do. Chain 1 has the given number of bytes and segments.
func TestUnusualButValid(t *testing.T) {
	fill := func(c crafted, entries int) { // a table whose entries have one byte each
		for i := range entries {
			third, fourth := c.flag|descNext, uint16(i+1)
			if i == entries-1 {
				third = c.flag
			}
			c.d(tableAt+uint64(16*i), rigBase+rigData, 1, third, fourth)
		}
	}
	fillPacked := func(c crafted, entries int) {
		for i := range entries {
			c.d(tableAt+uint64(16*i), rigBase+rigData, 1, 0xffff, c.flag|descNext|packedUsed) // all but WRITE is to be ignored (2.8.7)
		}
	}
	for _, v := range []struct {
		name          string
		split, packed func(c crafted)
		bytes, pieces int
	}{
		{"an empty buffer", func(c crafted) { c.split(1, 0, 0, c.flag, 0) }, func(c crafted) { c.packed(1, 0, 0, 1, c.flag) }, 0, 0},
		{"empty, then one byte", func(c crafted) {
			c.split(1, 0, 0, c.flag|descNext, 2)
			c.split(2, rigBase+rigData, 1, c.flag, 0)
		}, func(c crafted) {
			c.packed(1, 0, 0, 7, c.flag|descNext)
			c.packed(2, rigBase+rigData, 1, 1, c.flag)
		}, 1, 1},
		{"all of the memory", func(c crafted) { c.split(1, rigBase, rigSize, c.flag, 0) },
			func(c crafted) { c.packed(1, rigBase, rigSize, 1, c.flag) }, rigSize, 1},
		{"the last byte", func(c crafted) { c.split(1, outside-1, 1, c.flag, 0) },
			func(c crafted) { c.packed(1, outside-1, 1, 1, c.flag) }, 1, 1},
		{"WRITE on the indirect descriptor", func(c crafted) {
			c.split(1, tableAt, 16, descIndirect|descWrite, 0)
			fill(c, 1)
		}, func(c crafted) {
			c.packed(1, tableAt, 16, 1, descIndirect|descWrite)
			fillPacked(c, 1)
		}, 1, 1},
		{"a table as long as chains may be", func(c crafted) {
			c.split(1, tableAt, 16*minMaxChain, descIndirect, 0)
			fill(c, minMaxChain)
		}, func(c crafted) {
			c.packed(1, tableAt, 16*minMaxChain, 1, descIndirect)
			fillPacked(c, minMaxChain)
		}, minMaxChain, minMaxChain},
		{"a table longer than its chain", func(c crafted) {
			c.split(1, tableAt, 160, descIndirect, 0)
			fill(c, 3)
		}, nil, 3, 3},
		{"a table at an odd place", func(c crafted) {
			c.split(1, tableAt+1, 16, descIndirect, 0)
			c.d(tableAt+1, rigBase+rigData, 9, c.flag, 0)
		}, func(c crafted) {
			c.packed(1, tableAt+1, 16, 1, descIndirect)
			c.d(tableAt+1, rigBase+rigData, 9, 0, c.flag)
		}, 9, 1},
		{"descriptors before an indirect one", func(c crafted) {
			c.split(1, rigBase+rigData, 5, c.flag|descNext, 3)
			c.split(3, tableAt, 32, descIndirect, 0)
			fill(c, 2)
		}, func(c crafted) {
			c.packed(1, rigBase+rigData, 5, 1, c.flag|descNext)
			c.packed(2, tableAt, 32, 1, descIndirect)
			fillPacked(c, 2)
		}, 7, 3},
		{"all the rest of the ring", func(c crafted) {
			for i := 1; i < craft16; i++ {
				c.split(i, rigBase+rigData, 2, c.flag|descNext, uint16(i+1))
			}
			c.split(craft16-1, rigBase+rigData, 2, c.flag, 0)
		}, func(c crafted) {
			for i := 1; i < craft16; i++ {
				c.packed(i, rigBase+rigData, 2, 1, c.flag|descNext)
			}
			c.packed(craft16-1, rigBase+rigData, 2, 1, c.flag)
		}, 2 * (craft16 - 1), craft16 - 1},
	} {
		for _, packed := range []bool{false, true} {
			for _, receive := range []bool{false, true} {
				change := v.split
				if packed {
					change = v.packed
				}
				if change == nil {
					continue
				}
				c := newCrafted(t, packed, receive)
				change(c)
				var b Burst
				n, err := c.fetch(t, &b, packed, withIndirect)
				if n != 2 || err != nil {
					t.Errorf("%s, packed=%v receive=%v: %d chains, %v; want 2", v.name, packed, receive, n, err)
					continue
				}
				if got := &b.Chains[1]; got.Len != uint64(v.bytes) || int(got.Count) != v.pieces || got.ID != 1 || got.Cut {
					t.Errorf("%s, packed=%v receive=%v: %+v, want %d bytes in %d pieces", v.name, packed, receive, got, v.bytes, v.pieces)
				}
			}
		}
	}
}

// chains fills a ring of 32768 with chains of the given numbers of descriptors, one byte each.
func chains(t *testing.T, w *world, packed bool, counts ...int) *Queue {
	t.Helper()
	f, state := Bits(VIRTIO_F_VERSION_1), State{}
	if packed {
		f, state = f|Bits(VIRTIO_F_RING_PACKED), State{AvailWrap: true}
	}
	clear(w.file[:ringsSize])
	at := 0
	for i, n := range counts {
		w.put16(driverOff+4+2*i, uint16(at))
		for k := range n {
			flags := uint16(0)
			if k+1 < n {
				flags = descNext
			}
			if packed {
				w.put(descOff+16*at, dataGPA, 1, uint16(i), flags|packedAvail)
			} else {
				w.put(descOff+16*at, dataGPA, 1, flags, uint16(at+1))
			}
			at++
		}
	}
	store32(w.file, driverOff, uint32(len(counts))<<16)
	return w.queue(t, MaxQueueSize, f, false, state)
}

// TestLongChains: a chain with more segments than a burst describes is marked, and has a burst of its own; what is too much work for one
// burst comes with the next.
func TestLongChains(t *testing.T) {
	w := newWorld(t)
	for _, packed := range []bool{false, true} {
		for _, c := range []struct {
			name   string
			counts []int
			bursts []int // chains in each fetch
			cut    int   // the chain that is cut; -1: none
		}{
			{"exactly as many segments as a burst", []int{1, maxSegments - 1, 1}, []int{2, 1}, -1},
			{"as many segments as a burst alone", []int{maxSegments, 1}, []int{1, 1}, -1},
			{"more segments than a burst", []int{3, 1, maxSegments + 1, 2}, []int{2, 1, 1}, 2},
			{"the whole ring", []int{MaxQueueSize}, []int{1}, 0},
			{"many long ones", []int{2000, 2000, 2000, 2000}, []int{2, 2}, -1},
		} {
			q := chains(t, w, packed, c.counts...)
			var b Burst
			seen := 0
			for _, want := range c.bursts {
				b.Reset(q)
				n, err := q.Fetch(&b, BurstSize)
				if n != want || err != nil {
					t.Fatalf("%s, packed=%v: %d chains after %d, %v; want %d", c.name, packed, n, seen, err, want)
				}
				if again, err := q.Fetch(&b, BurstSize); err != nil || again != n {
					t.Errorf("%s, packed=%v: fetched again %d, %v", c.name, packed, again, err)
				}
				for i := range n {
					chain := &b.Chains[i]
					length, segments := c.counts[seen], min(c.counts[seen], maxSegments)
					if chain.Len != uint64(length) || int(chain.Count) != segments || chain.Cut != (seen == c.cut) {
						t.Errorf("%s, packed=%v: chain %d is %+v", c.name, packed, seen, *chain)
					}
					seen++
				}
				q.Complete(&b, n)
			}
			if b.Reset(q); q.Available() || seen != len(c.counts) {
				t.Errorf("%s, packed=%v: %d of %d chains, more available: %v", c.name, packed, seen, len(c.counts), q.Available())
			}
		}
	}
}

// TestWalkBudget: descriptors without bytes cost time and no segments, so their number is bounded too, and nothing is lost by it.
func TestWalkBudget(t *testing.T) {
	w := newWorld(t)
	const perChain, total = 500, 60
	for _, packed := range []bool{false, true} {
		counts := make([]int, total)
		for i := range counts {
			counts[i] = perChain
		}
		q := chains(t, w, packed, counts...)
		for i := range total * perChain {
			store32(w.file, descOff+16*i+8, 0)
		}
		var b Burst
		for seen, bursts := 0, 0; seen < total; bursts++ {
			b.Reset(q)
			n, err := q.Fetch(&b, BurstSize)
			if want := min((maxWalk+perChain-1)/perChain, total-seen); n != want || err != nil {
				t.Fatalf("packed=%v: %d chains, %v; want %d", packed, n, err, want)
			}
			if more, _ := q.Fetch(&b, BurstSize); more != n {
				t.Errorf("packed=%v: the same burst went on from %d to %d chains", packed, n, more)
			}
			q.Complete(&b, n)
			seen += n
		}
	}
}

// TestManyRegions: a front-end may cut its memory into as many neighbouring regions as it likes, a byte each, and let every descriptor run
// over all of them. The work for a burst must not be their product.
func TestManyRegions(t *testing.T) {
	fd, err := unix.MemfdCreate("virtio-regions", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, ringsSize); err != nil {
		t.Fatal(err)
	}
	specs := []guestmem.RegionSpec{{GuestPhysAddr: ringsGPA, Size: ringsSize, UserAddr: ringsGPA, FD: fd}}
	for i := range uint64(guestmem.MaxRegions - 1) {
		specs = append(specs, guestmem.RegionSpec{GuestPhysAddr: dataGPA + i, Size: 1, UserAddr: dataGPA + 2*i, FD: fd})
	}
	memory, err := guestmem.Map(specs)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	rings, _ := memory.User(ringsGPA, ringsSize)
	for i := range MaxQueueSize { // one chain of all descriptors
		p := rings + descOff + guestmem.Ptr(16*i)
		p.StoreU64(dataGPA)
		(p + 8).StoreU64(uint64(len(specs)-1) | descNext<<32 | uint64(i+1)<<48)
	}
	(rings + descOff + 16*(MaxQueueSize-1) + 12).StoreU16(0)
	(rings + driverOff + 2).StoreU16(1)
	q, err := NewQueue(Config{Size: MaxQueueSize, Features: Bits(VIRTIO_F_VERSION_1), Memory: memory, Kick: -1, Call: -1,
		Desc: rings + descOff, Driver: rings + driverOff, Device: rings + deviceOff})
	if err != nil {
		t.Fatal(err)
	}
	var b Burst
	b.Reset(q)
	begun := time.Now()
	n, err := q.Fetch(&b, BurstSize)
	took := time.Since(begun)
	t.Logf("%d chains, %v in %v", n, err, took)
	if err != nil && !errors.Is(err, ErrRing) || n == 1 && !b.Chains[0].Cut {
		t.Errorf("%d chains, %v, %+v", n, err, b.Chains[0])
	}
	if took > 500*time.Millisecond { // without a bound it is 17 million translations
		t.Errorf("one burst held the worker for %v", took)
	}
}
