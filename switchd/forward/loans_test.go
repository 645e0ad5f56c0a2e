package forward

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/virtio"
)

// reader is an uplink whose device reads frames when the test wants it to.
type reader struct {
	uplink.Uplink // what is not needed here
	refuse        error
	sent, done    atomic.Uint32
	copying       atomic.Bool

	mu     sync.Mutex
	held   [][]guestmem.Segment // of frames sent, from done on
	frames [][]byte             // that the device has read
	calls  []string             // MapDMA and UnmapDMA
}

func (u *reader) Queues() int                           { return 1 }
func (u *reader) Queue(int) uplink.Queue                { return u }
func (u *reader) FD() int                               { return -1 }
func (u *reader) Receive([]uplink.RxFrame) (int, error) { return 0, nil }
func (u *reader) Done(until uint32) bool                { return int32(u.done.Load()-until) >= 0 }

func (u *reader) Send(frames []uplink.TxFrame, loan *uplink.InFlight) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if loan == nil || u.copying.Load() {
		for i := range frames {
			u.frames = append(u.frames, read(frames[i].Segs))
		}
		return len(frames), nil
	}
	for i := range frames {
		u.held = append(u.held, slices.Clone(frames[i].Segs))
	}
	*loan = uplink.InFlight{Ring: u, Until: u.sent.Add(uint32(len(frames)))}
	return len(frames), nil
}

func read(segments []guestmem.Segment) (b []byte) {
	for _, s := range segments {
		b = append(b, s.Addr.Bytes(int(s.Len))...)
	}
	return b
}

// read lets the device read n frames more.
func (u *reader) read(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, f := range u.held[:n] {
		u.frames = append(u.frames, read(f))
	}
	u.held = u.held[n:]
	u.done.Add(uint32(n))
}

func (u *reader) waiting() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.held)
}

func (u *reader) note(format string, args ...any) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.calls = append(u.calls, fmt.Sprintf(format, args...))
	return u.refuse
}

// The switch asks for it at run time, and would do without.
var _ uplink.DMAMapper = (*reader)(nil)

func (u *reader) MapDMA(port uplink.Pool, _ *guestmem.Memory) error { return u.note("lend %d", port) }
func (u *reader) UnmapDMA(port uplink.Pool, drained bool) error {
	return u.note("take %d drained=%v waiting=%d", port, drained, u.waiting())
}

func (u *reader) called() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.calls)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// lendingRig is a switch with a reader and two guests that know each other: 1 has sent to 0 already.
func lendingRig(t *testing.T, events func(Event)) (*Switch, *reader, *guest, *guest) {
	t.Helper()
	u := &reader{}
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, Uplink: u, ZeroCopy: true, OnEvent: events})
	a, b := newGuest(t, s, 256), newGuest(t, s, 256)
	for i, g := range []*guest{a, b} {
		u.copying.Store(true)
		g.send(testFrame(byte(9), byte(i+1), 100, 0)) // to nobody: outside
		until(t, "a first frame went out", func() bool { return g.tx.usedIndex() == 1 })
	}
	u.copying.Store(false)
	u.mu.Lock()
	u.frames = nil
	u.mu.Unlock()
	return s, u, a, b
}

// Buffers come back when the device has read them, those behind them too, and in order; frames for other guests do not wait.
func TestLentBuffersComeBackInOrder(t *testing.T) {
	_, u, a, b := lendingRig(t, func(Event) {})
	out, local := testFrame(9, 1, 600, 1), testFrame(2, 1, 700, 2)
	a.send(out, local)
	if got := b.receive(1, 5*time.Second); len(got) != 1 || !bytes.Equal(got[0], local) {
		t.Fatalf("the other guest got %d frames", len(got))
	}
	a.send(local) // by the fast path
	if got := b.receive(1, 5*time.Second); len(got) != 1 {
		t.Fatal("a frame behind one that is lent did not arrive")
	}
	time.Sleep(10 * time.Millisecond)
	if got := a.tx.usedIndex(); got != 1 {
		t.Fatalf("%d buffers came back before the device had read the first", got-1)
	}
	copy((a.tx.data + guestmem.Ptr(1*rigBuffer+rigHeader+headerLen)).Bytes(4), "late") // the device reads it where it is
	u.read(1)
	until(t, "all three buffers are back", func() bool { return a.tx.usedIndex() == 4 })
	for i, want := range []uint32{0, 1, 2, 3} {
		if id := (a.tx.used + 4 + guestmem.Ptr(8*i)).LoadU32(); id != want {
			t.Errorf("buffer %d came back in place of %d", id, want)
		}
	}
	if want := append([]byte("late"), out[headerLen+4:]...); len(u.frames) != 1 || !bytes.Equal(u.frames[0], want) {
		t.Errorf("the device read %d frames, want the guest's one as it is now", len(u.frames))
	}
}

// At random: a device that is slow, fast, or copies for a while; nothing is lost, and every buffer comes back once, in order.
func TestLoansAtRandom(t *testing.T) {
	_, u, a, b := lendingRig(t, func(Event) {})
	rnd := rand.New(rand.NewPCG(1, 2))
	sent, outside, inside, arrived := 1, 0, 0, 0
	drain := func() int { return len(b.receive(int(b.rx.usedIndex()-b.rx.seen), time.Second)) }
	for step := range 4000 {
		free := 256 - int(a.tx.next-a.tx.usedIndex())
		var burst [][]byte
		for range rnd.IntN(min(free, 40) + 1) {
			if rnd.IntN(2) == 0 {
				burst = append(burst, testFrame(9, 1, 60+rnd.IntN(1400), byte(step)))
				outside++
			} else {
				burst = append(burst, testFrame(2, 1, 60+rnd.IntN(1400), byte(step)))
				inside++
			}
		}
		a.send(burst...)
		sent += len(burst)
		if rnd.IntN(20) == 0 {
			u.copying.Store(!u.copying.Load())
		}
		if n := u.waiting(); n > 0 && rnd.IntN(3) > 0 {
			u.read(rnd.IntN(n + 1))
		}
		arrived += drain()
	}
	u.copying.Store(false)
	until(t, "all buffers are back", func() bool {
		u.read(u.waiting())
		arrived += drain()
		return a.tx.usedIndex() == uint16(sent)
	})
	arrived += drain()
	if len(u.frames) != outside || arrived != inside {
		t.Errorf("%d of %d frames went out, %d of %d reached the other guest", len(u.frames), outside, arrived, inside)
	}
	for i := range 256 {
		slot := (sent - 256 + i) % 256
		if id := (a.tx.used + 4 + guestmem.Ptr(8*slot)).LoadU32(); int(id) != slot {
			t.Errorf("at %d buffer %d came back", slot, id)
		}
	}
}

// A ring that stops waits for the device and returns what it held; memory is taken back after that.
func TestStoppedRingSettles(t *testing.T) {
	_, u, a, _ := lendingRig(t, func(Event) {})
	a.send(testFrame(9, 1, 600, 1), testFrame(9, 1, 600, 2))
	until(t, "both frames are lent", func() bool { return u.waiting() == 2 })
	go func() {
		time.Sleep(20 * time.Millisecond)
		u.read(2)
	}()
	a.port.Update([]*virtio.Queue{a.rx.queue, nil}, rigFeatures, a.memory)
	if got, state := a.tx.usedIndex(), a.tx.queue.State(); got != 3 || state.Avail != 3 {
		t.Errorf("the ring stopped with %d buffers returned, at %+v; want all 3", got, state)
	}
	a.port.Close()
	if want := []string{"lend 0", "lend 1", "take 0 drained=true waiting=0"}; !slices.Equal(u.called(), want) {
		t.Errorf("calls %q, want %q", u.called(), want)
	}
}

// A guest that leaves while the device hangs waits for a bounded time; the device is told that it still has frames.
func TestGuestLeavesHungDevice(t *testing.T) {
	s, u, a, b := lendingRig(t, func(Event) {})
	a.send(testFrame(9, 1, 600, 1))
	until(t, "a frame is lent", func() bool { return u.waiting() == 1 })
	begin := time.Now()
	a.port.Close()
	if took := time.Since(begin); took < drainLimit || took > drainLimit+2*time.Second {
		t.Errorf("leaving took %v, want about %v", took, drainLimit)
	}
	if want := "take 0 drained=false waiting=1"; u.called()[2] != want {
		t.Errorf("calls %q, want %q at last", u.called(), want)
	}
	if used := a.tx.usedIndex(); used != 1 {
		t.Errorf("%d buffers came back that the device may still read", used-1)
	}
	u.read(1)
	b.send(testFrame(9, 2, 600, 1))
	until(t, "the other guest's frame is lent", func() bool { return u.waiting() == 1 })
	u.read(1)
	until(t, "and comes back", func() bool { return b.tx.usedIndex() == 2 })
	if c := newGuest(t, s, 256); c.port.ID() != 0 {
		t.Errorf("the next port is %d, want 0 again", c.port.ID())
	}
}

// A device that cannot read a guest's memory is complained of, once, and its frames go out all the same.
func TestMemoryThatCannotBeLent(t *testing.T) {
	why := errors.New("no room")
	var complaints atomic.Int32
	u := &reader{refuse: why}
	u.copying.Store(true) // as a DMAMapper does that has no memory
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, Uplink: u, ZeroCopy: true, OnEvent: func(e Event) {
		if e.Kind == EventNotLent && errors.Is(e.Err, why) {
			complaints.Add(1)
		}
	}})
	a := newGuest(t, s, 256)
	a.port.Update([]*virtio.Queue{a.rx.queue, a.tx.queue}, rigFeatures, a.memory)
	a.send(testFrame(9, 1, 600, 1))
	until(t, "the frame went out", func() bool { return a.tx.usedIndex() == 1 })
	until(t, "a complaint", func() bool { return complaints.Load() > 0 })
	if n := complaints.Load(); n != 1 {
		t.Errorf("%d complaints, want one", n)
	}
}
