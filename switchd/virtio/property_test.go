package virtio

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"vhostkit/switchd/guestmem"
)

// TestQueueAgainstModel drives queues of all kinds at random against a driver that was written from the specification alone: order,
// contents, lengths, abandoned bursts, a queue made anew from State, and notifications both ways. Positions begin where they soon wrap.
func TestQueueAgainstModel(t *testing.T) {
	w := newWorld(t)
	for i := dataGPA; i < dataEnd; i++ {
		w.file[highOff+i-dataGPA] = byte(i * 7919 >> 3)
	}
	for _, packed := range []bool{false, true} {
		sizes := []int{1, 2, 4, 64, 256, 2048, MaxQueueSize}
		if packed {
			sizes = []int{1, 2, 3, 7, 64, 1000, MaxQueueSize}
		}
		for _, size := range sizes {
			for variant := range 8 {
				c := trial{world: w, size: size, receive: variant&1 != 0, f: Bits(VIRTIO_F_VERSION_1)}
				if variant&2 != 0 {
					c.f |= Bits(VIRTIO_F_EVENT_IDX)
				}
				if variant&4 != 0 {
					c.f |= Bits(VIRTIO_F_INDIRECT_DESC)
				}
				c.state = State{Avail: 65000}
				if packed {
					c.f |= Bits(VIRTIO_F_RING_PACKED)
					c.state = State{Avail: uint16(size - 1), AvailWrap: variant&1 == 0}
				}
				t.Run(fmt.Sprintf("packed=%v/size=%d/receive=%v/event=%v/indirect=%v", packed, size, c.receive,
					c.f.Has(VIRTIO_F_EVENT_IDX), c.f.Has(VIRTIO_F_INDIRECT_DESC)), func(t *testing.T) {
					c.rnd = rand.New(rand.NewPCG(uint64(size), uint64(variant)))
					c.run(t)
				})
			}
		}
	}
}

// trial is one run of a queue against a model.
type trial struct {
	*world
	rnd     *rand.Rand
	size    int
	f       Features
	receive bool
	state   State

	q       *Queue
	m       *model
	b       Burst
	v       Views
	pending []*buffer // with the device, in order
	held    int       // of them: consumed and not returned
	places  []spot    // returned since CallDue was last asked
	wish    callWish
	kick    kickState
}

// kickState is what the device last asked for.
type kickState struct {
	want  bool
	event spot
}

func (c *trial) run(t *testing.T) {
	clear(c.file[:ringsSize])
	c.m = newModel(c.world, c.rnd, c.size, c.f, c.receive, c.state)
	c.q = c.queue(t, c.size, c.f, c.receive, c.state)
	c.q.Start()
	c.q.AllowHold()
	c.wish = callWish{event: c.m.seen}
	c.m.wish(c.wish)
	total := 0
	for step := range 600 {
		c.offer(t, step)
		if c.rnd.IntN(2) == 0 {
			total += c.views(t)
		}
		n := c.fetch(t)
		done := c.rnd.IntN(n + 1)
		if c.rnd.IntN(3) > 0 {
			done = n
		}
		c.complete(t, done)
		total += done
		if c.rnd.IntN(3) > 0 {
			c.needsCall(t)
		}
		if c.rnd.IntN(50) == 0 {
			c.needsCall(t) // notifications are settled before a queue is handed over
			c.q = c.queue(t, c.size, c.f, c.receive, c.q.State())
			c.q.AllowHold()
			c.held = 0 // and come again
			if c.q.WantKicks(c.kick.want); c.kick.want {
				c.kick.event = c.m.seen
			}
		}
		if t.Failed() {
			return
		}
	}
	if total < 100 {
		t.Errorf("only %d buffers went through", total)
	}
}

// offer makes some buffers available, now and then as many as fit, and checks whether the kick is due that the device asked for.
func (c *trial) offer(t *testing.T, step int) {
	if c.rnd.IntN(4) == 0 {
		want := c.rnd.IntN(2) == 0
		if c.q.WantKicks(want); want {
			c.kick.event = c.m.next(c.m.seen, c.held) // what is held will not be announced again
		}
		c.kick.want = want
	}
	if got := c.q.Available(); got != (len(c.pending) > c.held) {
		t.Errorf("Available is %v with %d buffers waiting, %d of them held", got, len(c.pending), c.held)
	}
	count := c.rnd.IntN(40)
	if step%200 == 0 {
		count = c.size
	}
	for range count {
		b := c.m.offer()
		if b == nil {
			break
		}
		c.pending = append(c.pending, b)
	}
	published := slices.Clone(c.m.published)
	want := len(published) > 0 && c.kick.want
	if !c.m.packed && c.m.event { // a driver is kept quiet by an index that it does not pass, only by that
		want = slices.Contains(published, c.kick.event)
	}
	if got := c.m.kickDue(); got != want {
		t.Errorf("the driver kicks: %v, want %v (asked %+v, published %v)", got, want, c.kick, published)
	}
}

// fetch fetches, sometimes in two parts, and compares with what was offered.
func (c *trial) fetch(t *testing.T) int {
	limit := 1 + c.rnd.IntN(BurstSize+5)
	waiting := c.pending[c.held:]
	c.b.Reset(c.q)
	if c.rnd.IntN(3) == 0 {
		if n, err := c.q.Fetch(&c.b, limit/2); err != nil || n != min(limit/2, len(waiting)) {
			t.Fatalf("a first part of %d, %v; want %d of %d", n, err, limit/2, len(waiting))
		}
	}
	n, err := c.q.Fetch(&c.b, limit)
	if want := min(limit, BurstSize, len(waiting)); err != nil || n != want {
		t.Fatalf("fetched %d, %v; want %d of %d", n, err, want, len(waiting))
	}
	for i := range n {
		c.compare(t, &c.b.Chains[i], waiting[i])
	}
	return n
}

func (c *trial) compare(t *testing.T, chain *Chain, want *buffer) {
	t.Helper()
	var host []guestmem.Segment
	var content []byte
	for _, p := range want.pieces {
		segments, _ := c.pieces(p.addr, p.n)
		host = append(host, segments...)
		content = append(content, c.bytes(p.addr, p.n)...)
	}
	if chain.ID != want.id || chain.Len != uint64(want.len()) || chain.Cut || !slices.Equal(c.b.Of(chain), host) {
		t.Fatalf("chain %d of %d bytes %v, want %d of %d bytes %v", chain.ID, chain.Len, c.b.Of(chain), want.id, want.len(), host)
	}
	got := make([]byte, len(content))
	if guestmem.ReadSegments(got, c.b.Of(chain), 0); !bytes.Equal(got, content) {
		t.Fatalf("chain %d has other bytes than the guest wrote", chain.ID)
	}
	if !c.receive {
		return
	}
	first := byte(c.rnd.Uint32())
	for i := range got {
		got[i] = first + byte(i*7)
	}
	guestmem.WriteSegments(c.b.Of(chain), 0, got)
	content = content[:0]
	for _, p := range want.pieces {
		content = append(content, c.bytes(p.addr, p.n)...)
	}
	if !bytes.Equal(got, content) {
		t.Fatalf("chain %d: the guest sees other bytes than were written", chain.ID)
	}
}

// complete returns the first chains; the rest is abandoned and must come again.
func (c *trial) complete(t *testing.T, done int) {
	if c.holds() {
		c.q.Hold(&c.b, done)
		c.giveBack(t, done)
		return
	}
	for i := range done {
		c.b.Chains[i].Written = 0
		if c.receive && c.rnd.IntN(10) > 0 {
			c.b.Chains[i].Written = uint32(c.rnd.IntN(int(c.b.Chains[i].Len) + 1))
		}
	}
	c.q.Complete(&c.b, done)
	written := make([]uint32, done)
	for i := range written {
		written[i] = c.b.Chains[i].Written
	}
	c.returned(t, written)
}

// returned checks what came back to the driver.
func (c *trial) returned(t *testing.T, written []uint32) {
	t.Helper()
	list, places := c.m.collect()
	if len(list) != len(written) {
		t.Fatalf("%d buffers came back, want %d", len(list), len(written))
	}
	for i, r := range list {
		if r.buffer != c.pending[i] || r.length != written[i] {
			t.Fatalf("buffer %d of %d bytes came back, want %d of %d", r.buffer.id, r.length, c.pending[i].id, written[i])
		}
	}
	c.pending = c.pending[len(written):]
	c.places = append(c.places, places...)
}

// holds tells whether what was fetched is held: always when something is already.
func (c *trial) holds() bool { return c.held > 0 || !c.receive && c.rnd.IntN(2) == 0 }

// giveBack returns some of what is held, with done more.
func (c *trial) giveBack(t *testing.T, done int) {
	t.Helper()
	c.held += done
	if got := c.q.Held(); got != c.held {
		t.Fatalf("%d chains are held, want %d", got, c.held)
	}
	n := c.rnd.IntN(c.held + 1)
	if c.rnd.IntN(3) == 0 {
		n = c.held
	}
	c.q.Return(n)
	c.held -= n
	c.returned(t, make([]uint32, n))
}

// views fetches and returns by views what is simple.
func (c *trial) views(t *testing.T) int {
	t.Helper()
	limit := 1 + c.rnd.IntN(BurstSize+5)
	n, more := c.q.FetchViews(c.v[:min(limit, BurstSize)])
	waiting := c.pending[c.held:]
	top := min(limit, BurstSize, len(waiting))
	if n > top || n < top != more {
		t.Fatalf("%d views and more %v, of %d waiting with limit %d", n, more, len(waiting), limit)
	}
	for i := range n {
		host, _ := c.pieces(waiting[i].pieces[0].addr, waiting[i].len())
		if want := waiting[i]; len(want.pieces) != 1 || len(host) != 1 || c.v[i] != (View{host[0].Addr, host[0].Len, want.id}) {
			t.Fatalf("view %d is %+v, want %+v in %v", i, c.v[i], want, host)
		}
	}
	if more && !c.f.Has(VIRTIO_F_INDIRECT_DESC) {
		next := waiting[n]
		if host, _ := c.pieces(next.pieces[0].addr, next.len()); len(next.pieces) == 1 && len(host) == 1 {
			t.Fatalf("%+v in %v was not taken as simple", next, host)
		}
	}
	done := c.rnd.IntN(n + 1)
	if c.holds() {
		c.q.HoldViews(c.v[:done])
		c.giveBack(t, done)
		return done
	}
	written := make([]uint32, done)
	if c.receive {
		for i := range written {
			written[i] = uint32(c.rnd.IntN(int(c.v[i].Len) + 1))
			c.v[i].Len = written[i]
		}
	}
	c.q.CompleteViews(c.v[:done])
	c.returned(t, written)
	return done
}

// needsCall asks the queue and the specification, then makes a new wish.
func (c *trial) needsCall(t *testing.T) {
	var fence guestmem.Fence
	want := len(c.places) > 0
	switch {
	case !c.m.event:
		want = want && !c.wish.never
	case c.m.packed && (c.wish.always || c.wish.never):
		want = want && c.wish.always
	default:
		want = slices.Contains(c.places, c.wish.event)
	}
	got := c.q.needsCall(&fence)
	// A driver that is behind by more than a ring may be called once too often, never too seldom.
	if got != want && (want || c.wish.never || len(c.places) <= c.size) {
		t.Errorf("CallDue is %v, want %v: wish %+v, returned %v", got, want, c.wish, c.places)
	}
	c.places = c.places[:0]
	c.wish = callWish{always: c.rnd.IntN(2) == 0}
	c.wish.never = !c.wish.always
	if c.m.event && c.rnd.IntN(4) > 0 {
		c.wish = callWish{event: c.m.next(c.m.seen, c.rnd.IntN(min(c.size, 40)+1))}
		if c.rnd.IntN(10) == 0 {
			c.wish.event = spot{uint16(c.rnd.IntN(c.size)), c.m.packed && c.rnd.IntN(2) == 0} // an old one, or far ahead
		}
	} else if c.m.event && !c.m.packed {
		c.wish = callWish{event: spot{at: c.m.seen.at - 1}} // as good as never
	}
	c.m.wish(c.wish)
}
