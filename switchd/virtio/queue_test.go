package virtio

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"vhostkit/switchd/guestmem"
)

// TestQueueProperty drives queues at random: every buffer comes out once, in order, with its pieces where the driver put them, and goes back
// in order with its length; what is fetched and not completed comes again.
func TestQueueProperty(t *testing.T) {
	for _, packed := range []bool{false, true} {
		for _, receive := range []bool{false, true} {
			for _, size := range []int{4, 16, 64, 1024} {
				t.Run(fmt.Sprintf("packed=%v receive=%v size=%d", packed, receive, size), func(t *testing.T) {
					r := newRig(t, size)
					f, write := Bits(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC), uint16(0)
					if receive {
						write = descWrite
					}
					var d driver = &splitDriver{rig: r, write: write}
					state := State{}
					if packed {
						f |= Bits(VIRTIO_F_RING_PACKED)
						state.AvailWrap = true
						d = &packedDriver{rig: r, write: write, availWrap: true, usedWrap: true, slots: map[int]int{}}
					}
					drive(t, d, r.queue(t, f, receive, state), r, rand.New(rand.NewPCG(1, uint64(size))))
				})
			}
		}
	}
}

type offered struct {
	id      int
	lengths []int
}

func drive(t *testing.T, d driver, q *Queue, r *rig, rnd *rand.Rand) {
	t.Helper()
	q.Start()
	var b Burst
	var pending []offered // with the device, in order
	free := rnd.Perm(r.size / 4)
	for range 3000 {
		for len(free) > 0 && rnd.IntN(3) > 0 {
			o := offered{id: free[0]}
			for range 1 + rnd.IntN(3) {
				o.lengths = append(o.lengths, 1+rnd.IntN(20))
			}
			d.offer(o.id, o.lengths, rnd.IntN(3) == 0)
			pending, free = append(pending, o), free[1:]
		}
		b.Reset(q)
		n, err := q.Fetch(&b, 1+rnd.IntN(BurstSize))
		if err != nil {
			t.Fatal(err)
		}
		if n > len(pending) || n == 0 && len(pending) > 0 {
			t.Fatalf("fetched %d of %d", n, len(pending))
		}
		for i := range n {
			compare(t, &b, i, pending[i], r)
			b.Chains[i].Written = uint32(i + 1)
		}
		done := rnd.IntN(n + 1) // the rest is abandoned
		q.Complete(&b, done)
		ids, lengths := d.collect()
		for i := range done {
			if i >= len(ids) || ids[i] != pending[i].id || lengths[i] != i+1 {
				t.Fatalf("returned %v %v, want the first %d of %v", ids, lengths, done, pending)
			}
			free = append(free, ids[i])
		}
		if len(ids) != done {
			t.Fatalf("returned %d buffers, want %d", len(ids), done)
		}
		pending = pending[done:]
	}
}

func compare(t *testing.T, b *Burst, i int, want offered, r *rig) {
	t.Helper()
	var got []int
	at := r.base + guestmem.Ptr(where(want.id)-rigBase)
	for _, s := range b.Of(&b.Chains[i]) {
		if s.Addr != at {
			t.Fatalf("buffer %d: a piece at %#x, want %#x", want.id, s.Addr, at)
		}
		at += guestmem.Ptr(s.Len)
		got = append(got, int(s.Len))
	}
	sum := 0
	for _, n := range want.lengths {
		sum += n
	}
	if !slices.Equal(got, want.lengths) || b.Chains[i].Len != uint64(sum) {
		t.Fatalf("buffer %d has pieces %v of %d bytes, want %v", want.id, got, b.Chains[i].Len, want.lengths)
	}
}

// needsCall is CallDue behind a fence.
func (q *Queue) needsCall(fence *guestmem.Fence) bool {
	fence.Full()
	return q.CallDue()
}

// TestCallDue compares with virtio 1.2, 2.7.10 and 2.8.10, done naively: was the entry at which the driver wants to be called among those
// that were returned?
func TestCallDue(t *testing.T) {
	var fence guestmem.Fence
	for _, c := range []struct {
		name         string
		event        bool
		flags        uint16
		usedEvent    uint16
		complete     int
		want         bool
		packedEvent  uint16 // off_wrap
		packedFlags  uint16
		packedWanted bool
	}{
		{name: "always", complete: 1, want: true, packedFlags: ringEventEnable, packedWanted: true},
		{name: "never", complete: 4, flags: availNoInterrupt, want: false, packedFlags: ringEventDisable},
		{name: "nothing returned", complete: 0, want: false, packedFlags: ringEventEnable},
		{name: "event reached", event: true, usedEvent: 2, complete: 3, want: true, packedEvent: 2 | 1<<15, packedFlags: ringEventDesc, packedWanted: true},
		{name: "event not reached", event: true, usedEvent: 3, complete: 3, want: false, packedEvent: 3 | 1<<15, packedFlags: ringEventDesc},
		{name: "event passed long ago", event: true, usedEvent: 0xfff0, complete: 3, want: false, packedEvent: 9, packedFlags: ringEventDesc},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := Bits(VIRTIO_F_VERSION_1)
			if c.event {
				f |= Bits(VIRTIO_F_EVENT_IDX)
			}
			for _, packed := range []bool{false, true} {
				r := newRig(t, 16)
				state, want := State{}, c.want
				var d driver = &splitDriver{rig: r}
				if packed {
					f |= Bits(VIRTIO_F_RING_PACKED)
					state.AvailWrap, want = true, c.packedWanted
					d = &packedDriver{rig: r, availWrap: true, usedWrap: true, slots: map[int]int{}}
					(r.base + rigDriver).StoreU16(c.packedEvent)
					(r.base + rigDriver + 2).StoreU16(c.packedFlags)
				} else {
					(r.base + rigDriver).StoreU16(c.flags)
					(r.base + rigDriver + 4 + 2*16).StoreU16(c.usedEvent)
				}
				q := r.queue(t, f, false, state)
				for id := range 4 {
					d.offer(id, []int{10}, false)
				}
				var b Burst
				b.Reset(q)
				if _, err := q.Fetch(&b, 4); err != nil {
					t.Fatal(err)
				}
				q.Complete(&b, c.complete)
				q.SetCall(1, false) // any but none; it is not used
				if called := q.needsCall(&fence); called != want {
					t.Errorf("packed=%v: called %v, want %v", packed, called, want)
				}
			}
		})
	}
}

// TestWantKicks: what the driver reads when it asks itself whether to kick.
func TestWantKicks(t *testing.T) {
	for _, event := range []bool{false, true} {
		f := Bits(VIRTIO_F_VERSION_1)
		if event {
			f |= Bits(VIRTIO_F_EVENT_IDX)
		}
		r := newRig(t, 16)
		d := &splitDriver{rig: r}
		q := r.queue(t, f, false, State{})
		q.Start()
		for id := range 3 {
			d.offer(id, []int{10}, false)
		}
		var b Burst
		b.Reset(q)
		if _, err := q.Fetch(&b, 3); err != nil {
			t.Fatal(err)
		}
		q.Complete(&b, 3)
		flags := func() uint16 { return (r.base + rigDevice).LoadU16() }
		if want := map[bool]uint16{false: usedNoNotify, true: 0}[event]; flags() != want {
			t.Errorf("event=%v: used.flags is %d while kicks are not wanted, want %d", event, flags(), want)
		}
		q.WantKicks(true)
		if flags() != 0 {
			t.Errorf("event=%v: used.flags is %d while kicks are wanted", event, flags())
		}
		if availEvent := (r.base + rigDevice + 4 + 8*16).LoadU16(); event && availEvent != 3 {
			t.Errorf("avail_event is %d, want 3: the next buffer", availEvent)
		}
		if q.Available() {
			t.Error("Available with nothing offered")
		}
		d.offer(3, []int{10}, false)
		if !q.Available() {
			t.Error("a buffer that came before the sleep is not seen")
		}
	}
}

// TestResume: a packed ring goes on where a killed process stopped, and only if it is still the same ring.
func TestResume(t *testing.T) {
	f := Bits(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED)
	r := newRig(t, 8)
	journal := r.base + 0xf0000
	d := &packedDriver{rig: r, availWrap: true, usedWrap: true, slots: map[int]int{}}
	config := Config{
		Size: 8, Features: f, Desc: r.base, Driver: r.base + rigDriver, Device: r.base + rigDevice, Memory: r.memory,
		State: State{AvailWrap: true}, Kick: -1, Call: -1, Journal: journal,
	}
	q, err := NewQueue(config)
	if err != nil {
		t.Fatal(err)
	}
	var b Burst
	pass := func(id int, lengths ...int) {
		t.Helper()
		d.offer(id, lengths, false)
		b.Reset(q)
		if n, err := q.Fetch(&b, 4); n != 1 || err != nil {
			t.Fatalf("fetched %d, %v", n, err)
		}
		q.Complete(&b, 1)
		if ids, _ := d.collect(); len(ids) != 1 || ids[0] != id {
			t.Fatalf("returned %v, want %d", ids, id)
		}
	}
	for id := range 5 {
		pass(id%2, 10, 20) // chains of two, over the end of the ring
	}
	config.Resume = journal.LoadU64()
	if q, err = NewQueue(config); err != nil { // the base is the old one: position 0
		t.Fatal(err)
	}
	q.Start()
	pass(1, 30)
	pass(0, 10, 20)
	config.Resume = journal.LoadU64()
	for i := range 16 * 8 { // a driver that began anew
		(r.base + guestmem.Ptr(i)).Bytes(1)[0] = 0
	}
	if q, err = NewQueue(config); err != nil {
		t.Fatal(err)
	}
	q.Start()
	if s := q.State(); s != config.State {
		t.Errorf("a new ring begins at %+v, want %+v", s, config.State)
	}
}

func TestConfigRefused(t *testing.T) {
	r := newRig(t, 8)
	good := Config{Size: 8, Desc: r.base, Driver: r.base + rigDriver, Device: r.base + rigDevice, Memory: r.memory, Kick: -1, Call: -1}
	for name, change := range map[string]func(*Config){
		"size 0":              func(c *Config) { c.Size = 0 },
		"size 7":              func(c *Config) { c.Size = 7 },
		"size 65536":          func(c *Config) { c.Size = 65536 },
		"no descriptors":      func(c *Config) { c.Desc = 0 },
		"odd descriptors":     func(c *Config) { c.Desc += 8 },
		"odd avail ring":      func(c *Config) { c.Driver++ },
		"odd used ring":       func(c *Config) { c.Device += 2 },
		"packed base outside": func(c *Config) { c.Features = Bits(VIRTIO_F_RING_PACKED); c.State.Avail = 8 },
	} {
		c := good
		change(&c)
		if _, err := NewQueue(c); !errors.Is(err, ErrRing) {
			t.Errorf("%s: %v, want ErrRing", name, err)
		}
	}
	if _, err := NewQueue(good); err != nil {
		t.Error(err)
	}
}

func TestNoAllocations(t *testing.T) {
	for _, packed := range []bool{false, true} {
		q, turn := benchmarkQueue(t, packed)
		q.Start()
		if n := testing.AllocsPerRun(100, turn); n != 0 {
			t.Errorf("packed=%v: %v allocations per burst, want none", packed, n)
		}
	}
}

// benchmarkOffer gives a queue and a function that makes 64 buffers available.
func benchmarkOffer(tb testing.TB, packed bool) (*Queue, func()) {
	tb.Helper()
	r := newRig(tb, 256)
	f, state := Bits(VIRTIO_F_VERSION_1), State{}
	var d driver = &splitDriver{rig: r}
	if packed {
		f |= Bits(VIRTIO_F_RING_PACKED)
		state.AvailWrap = true
		d = &packedDriver{rig: r, availWrap: true, usedWrap: true, slots: map[int]int{}}
	}
	q := r.queue(tb, f, false, state)
	lengths := []int{64}
	next := 0
	return q, func() {
		for range BurstSize {
			d.offer(next%BurstSize, lengths, false)
			if p, ok := d.(*packedDriver); ok {
				p.slots[next%BurstSize] = 1
			}
			next++
		}
	}
}

// benchmarkQueue gives a queue and a function that passes 64 buffers through it.
func benchmarkQueue(tb testing.TB, packed bool) (*Queue, func()) {
	tb.Helper()
	q, offer := benchmarkOffer(tb, packed)
	b := &Burst{}
	return q, func() {
		offer()
		b.Reset(q)
		if n, err := q.Fetch(b, BurstSize); n != BurstSize || err != nil {
			tb.Fatal(n, err)
		}
		q.Complete(b, BurstSize)
	}
}

// BenchmarkFetch and BenchmarkComplete: one iteration is a buffer. The driver's side is not measured: fetching consumes nothing, and
// returning the same buffers again and again only moves the position.
func BenchmarkFetch(b *testing.B) {
	for _, packed := range []bool{false, true} {
		b.Run(fmt.Sprintf("packed=%v", packed), func(b *testing.B) {
			q, offer := benchmarkOffer(b, packed)
			offer()
			v := &Views{}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += BurstSize {
				if n, _ := q.FetchViews(v[:]); n != BurstSize {
					b.Fatal(n)
				}
			}
		})
	}
}

func BenchmarkComplete(b *testing.B) {
	for _, packed := range []bool{false, true} {
		b.Run(fmt.Sprintf("packed=%v", packed), func(b *testing.B) {
			q, offer := benchmarkOffer(b, packed)
			offer()
			v := &Views{}
			q.FetchViews(v[:])
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += BurstSize {
				q.CompleteViews(v[:])
			}
		})
	}
}

func BenchmarkFetchComplete(b *testing.B) {
	for _, packed := range []bool{false, true} {
		b.Run(fmt.Sprintf("packed=%v", packed), func(b *testing.B) {
			_, turn := benchmarkQueue(b, packed)
			b.ReportAllocs()
			for n := 0; n < b.N; n += BurstSize {
				turn()
			}
		})
	}
}
