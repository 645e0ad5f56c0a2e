package virtio

import (
	"errors"
	"slices"
	"testing"
)

// A driver that offers more than the ring has, counting what the device holds, is caught, and never makes the device hold more.
func TestDriverOverrunsHeldBuffers(t *testing.T) {
	for _, packed := range []bool{false, true} {
		f, s := Bits(VIRTIO_F_VERSION_1), State{}
		r := newRig(t, craft16)
		c := crafted{r: r}
		if packed {
			f |= Bits(VIRTIO_F_RING_PACKED)
			s.AvailWrap = true
		}
		q := r.queue(t, f, false, s)
		q.AllowHold()
		for i := range craft16 {
			if packed {
				c.packed(i, rigBase+rigData, 60, uint16(i), 0)
			} else {
				c.split(i, rigBase+rigData, 60, 0, 0)
			}
		}
		if !packed {
			(r.base + rigDriver + 2).StoreU16(craft16)
		}
		var b Burst
		b.Reset(q)
		if n, err := q.Fetch(&b, BurstSize); n != craft16 || err != nil {
			t.Fatalf("packed=%v: fetched %d, %v", packed, n, err)
		}
		q.Hold(&b, craft16)
		if q.Held() != craft16 || packed && !q.State().AvailWrap || q.State().Avail != 0 {
			t.Errorf("packed=%v: %d chains held, state %+v; want %d, and the state before them", packed, q.Held(), q.State(), craft16)
		}
		if packed { // the second round, before the first came back
			c.d(rigBase, rigBase+rigData, 60, 0, packedUsed)
		} else {
			(r.base + rigDriver + 2).StoreU16(craft16 + 1)
		}
		var v Views
		if n, _ := q.FetchViews(v[:]); n != 0 {
			t.Errorf("packed=%v: %d views of a ring that is held as a whole", packed, n)
		}
		b.Reset(q)
		if n, err := q.Fetch(&b, BurstSize); n != 0 || !errors.Is(err, ErrRing) {
			t.Errorf("packed=%v: fetched %d, %v from a ring that is held as a whole; want an error", packed, n, err)
		}
	}
}

// A process that is killed while it holds buffers leaves a ring in which the next one finds them again.
func TestHeldBuffersSurviveTheProcess(t *testing.T) {
	for _, packed := range []bool{false, true} {
		r := newRig(t, 64)
		journal, resume := r.base+0xf0000, uint64(0)
		process := func() *Queue {
			c := Config{Size: 64, Features: Bits(VIRTIO_F_VERSION_1), Desc: r.base, Driver: r.base + rigDriver, Device: r.base + rigDevice,
				Memory: r.memory, Kick: -1, Call: -1}
			if packed {
				c.Features |= Bits(VIRTIO_F_RING_PACKED)
				c.State, c.Journal, c.Resume = State{AvailWrap: true}, journal, resume
			}
			q, err := NewQueue(c)
			if err != nil {
				t.Fatal(err)
			}
			q.AllowHold()
			q.Start()
			return q
		}
		var d driver = &splitDriver{rig: r}
		if packed {
			d = &packedDriver{rig: r, availWrap: true, usedWrap: true, slots: map[int]int{}}
		}
		for id := range 10 {
			d.offer(id, []int{20, 30}, false)
		}
		q := process()
		var b Burst
		for range 2 {
			b.Reset(q)
			if n, err := q.Fetch(&b, 4); n != 4 || err != nil {
				t.Fatalf("packed=%v: fetched %d, %v", packed, n, err)
			}
			q.Hold(&b, 4)
		}
		q.Return(3)
		if ids, lengths := d.collect(); !slices.Equal(ids, []int{0, 1, 2}) || !slices.Equal(lengths, []int{0, 0, 0}) {
			t.Errorf("packed=%v: buffers %v with lengths %v came back, want the first three", packed, ids, lengths)
		}
		resume = journal.LoadU64()
		q = process()
		b.Reset(q)
		n, err := q.Fetch(&b, BurstSize)
		if err != nil || n != 7 {
			t.Fatalf("packed=%v: the next process fetched %d, %v; want the seven that did not come back", packed, n, err)
		}
		q.Complete(&b, n)
		if ids, _ := d.collect(); !slices.Equal(ids, []int{3, 4, 5, 6, 7, 8, 9}) {
			t.Errorf("packed=%v: the next process returned %v", packed, ids)
		}
	}
}
