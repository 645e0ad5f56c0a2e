package virtio

import (
	"errors"
	"strings"
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
		{"a table as long as a receive chain may be", func(c crafted) {
			c.split(1, tableAt, 16*maxReceiveChain, descIndirect, 0)
			fill(c, maxReceiveChain)
		}, func(c crafted) {
			c.packed(1, tableAt, 16*maxReceiveChain, 1, descIndirect)
			fillPacked(c, maxReceiveChain)
		}, maxReceiveChain, maxReceiveChain},
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

// TestManySegments: what has more segments than a burst describes comes with the next one.
func TestManySegments(t *testing.T) {
	w := newWorld(t)
	const most = maxTransmitChain
	for _, packed := range []bool{false, true} {
		counts := []int{1}
		for range 40 {
			counts = append(counts, most)
		}
		q := chains(t, w, packed, counts...)
		var b Burst
		seen := 0
		for _, want := range []int{16, 16, 9} { // 1 + 15 of them fill maxSegments, and then 16
			b.Reset(q)
			n, err := q.Fetch(&b, BurstSize)
			if n != want || err != nil {
				t.Fatalf("packed=%v: %d chains after %d, %v; want %d", packed, n, seen, err, want)
			}
			if again, err := q.Fetch(&b, BurstSize); err != nil || again != n {
				t.Errorf("packed=%v: fetched again %d, %v", packed, again, err)
			}
			for i := range n {
				chain := &b.Chains[i]
				if chain.Len != uint64(counts[seen]) || int(chain.Count) != counts[seen] || chain.Cut {
					t.Errorf("packed=%v: chain %d is %+v", packed, seen, *chain)
				}
				seen++
			}
			q.Complete(&b, n)
		}
		if b.Reset(q); q.Available() || seen != len(counts) {
			t.Errorf("packed=%v: %d of %d chains, more available: %v", packed, seen, len(counts), q.Available())
		}
	}
}

// TestChainTooLong: a buffer of more descriptors than a frame can need breaks the ring, also if they hold no bytes, in a table or not. One of
// exactly as many is a buffer.
func TestChainTooLong(t *testing.T) {
	w := newWorld(t)
	for _, packed := range []bool{false, true} {
		for _, receive := range []bool{false, true} {
			for _, table := range []bool{false, true} {
				for _, length := range []uint32{0, 1} {
					most := maxTransmitChain
					if receive {
						most = maxReceiveChain
					}
					for count, good := range map[int]bool{most: true, most + 1: false} {
						q := oneChain(t, w, packed, receive, table, count, length)
						var b Burst
						b.Reset(q)
						n, err := q.Fetch(&b, BurstSize)
						if good && (n != 1 || err != nil || b.Chains[0].Cut || b.Chains[0].Len != uint64(count)*uint64(length)) {
							t.Errorf("packed=%v receive=%v table=%v length=%d: %d descriptors: %d chains, %v, %+v", packed, receive, table, length, count, n,
								err, b.Chains[0])
						}
						if !good && (n != 0 || !errors.Is(err, ErrRing) || !strings.Contains(err.Error(), "descriptors")) {
							t.Errorf("packed=%v receive=%v table=%v length=%d: %d descriptors: %d chains, %v; want ErrRing", packed, receive, table, length,
								count, n, err)
						}
					}
				}
			}
		}
	}
}

// oneChain makes a ring of the largest size with a chain of count descriptors of that length, behind one another or in a table.
func oneChain(t *testing.T, w *world, packed, receive, table bool, count int, length uint32) *Queue {
	t.Helper()
	f, state := withIndirect, State{}
	if packed {
		f, state = f|Bits(VIRTIO_F_RING_PACKED), State{AvailWrap: true}
	}
	clear(w.file[:ringsSize])
	at, own := descOff, uint16(0)
	if packed {
		own = packedAvail
	}
	if table {
		at = tablesOff
		w.put(descOff, tablesGPA, 16*count, descIndirect, 0)
		if packed {
			w.put(descOff, tablesGPA, 16*count, 0, descIndirect|own)
		}
	}
	for i := range count {
		flags := own
		if receive {
			flags |= descWrite
		}
		if i+1 < count {
			flags |= descNext
		}
		if packed {
			w.put(at+16*i, dataGPA, int(length), 0, flags)
		} else {
			w.put(at+16*i, dataGPA, int(length), flags, uint16(i+1))
		}
	}
	store32(w.file, driverOff, 1<<16)
	return w.queue(t, MaxQueueSize, f, receive, state)
}

// TestWalkBudget: descriptors without bytes cost time and no segments, so their number is bounded too, and nothing is lost by it.
func TestWalkBudget(t *testing.T) {
	w := newWorld(t)
	const perChain, total = 250, 120
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
	for i := range maxTransmitChain { // one chain of as many descriptors as may be
		p := rings + descOff + guestmem.Ptr(16*i)
		p.StoreU64(dataGPA)
		(p + 8).StoreU64(uint64(len(specs)-1) | descNext<<32 | uint64(i+1)<<48)
	}
	(rings + descOff + 16*(maxTransmitChain-1) + 12).StoreU16(0)
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
	if c := &b.Chains[0]; n != 1 || err != nil || !c.Cut || c.Count > chainPieces*maxTransmitChain {
		t.Errorf("%d chains, %v, %+v", n, err, b.Chains[0])
	}
	if took > 500*time.Millisecond { // without a bound it is 130 thousand translations for a chain
		t.Errorf("one burst held the worker for %v", took)
	}
}
