package forward

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// chainGuest is a device whose receive ring holds one buffer of so many descriptors, none of which has room for anything.
func chainGuest(tb testing.TB, s *Switch, descriptors int) (*Port, guestmem.Ptr) {
	tb.Helper()
	const size, memory = virtio.MaxQueueSize, 4 << 20
	fd, err := unix.MemfdCreate("chain", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, memory); err != nil {
		tb.Fatal(err)
	}
	m, err := guestmem.Map([]guestmem.RegionSpec{{Size: memory, FD: fd}})
	if err != nil {
		tb.Fatal(err)
	}
	at := func(off uint64) guestmem.Ptr { p, _ := m.User(off, 1); return p }
	for i := range descriptors {
		flags := uint64(3) // WRITE and NEXT
		if i == descriptors-1 {
			flags = 2
		}
		at(uint64(16 * i)).StoreU64(0)
		at(uint64(16*i + 8)).StoreU64(flags<<32 | uint64(i+1)<<48)
	}
	q, err := virtio.NewQueue(virtio.Config{Size: size, Features: rigFeatures, Receive: true, Desc: at(0), Driver: at(0x100000), Device: at(0x180000),
		Memory: m, Kick: -1, Call: -1})
	if err != nil {
		tb.Fatal(err)
	}
	p, err := s.AddPort(func(error) {})
	if err != nil {
		tb.Fatal(err)
	}
	at(0x100000).StoreU32(1 << 16) // descriptor 0 is available
	p.Update([]*virtio.Queue{q, nil}, rigFeatures, m)
	return p, at(0)
}

// broadcasts are n frames for everybody.
func broadcasts(n int, from byte) (list [][]byte) {
	for range n {
		f := testFrame(0, from, 60, 1)
		copy(f, everybody)
		list = append(list, f)
	}
	return list
}

// TestLongReceiveBuffer: a guest that offers a buffer of more descriptors than a frame can need is stopped, and the others get what is for everybody.
func TestLongReceiveBuffer(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
	a, b := newGuest(t, s, 256), newGuest(t, s, 256)
	hostile, _ := chainGuest(t, s, virtio.MaxQueueSize)
	a.send(broadcasts(64, 1)...)
	if got := b.receive(64, 5*time.Second); len(got) != 64 {
		t.Errorf("the other guest got %d frames, want 64", len(got))
	}
	waitFor(t, func() bool { return hostile.failure.Load() != nil })
	if err := *hostile.failure.Load(); !errors.Is(err, virtio.ErrRing) {
		t.Errorf("stopped with %v, want ErrRing", err)
	}
}

// TestBufferThatHoldsNoFrame: a receive ring whose next buffer, or as many as a frame may take, were too small is not looked at again for the next
// frames: what the guest does to that buffer meanwhile, which it must not, is not seen.
func TestBufferThatHoldsNoFrame(t *testing.T) {
	for _, mergeable := range []bool{false, true} {
		s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
		a, b := newGuest(t, s, 256), newGuest(t, s, 256)
		var hostile *Port
		var head guestmem.Ptr
		if mergeable {
			g := newGuestWith(t, s, 256, mergeRx)
			for i := range g.rx.size {
				(g.rx.desc + ptr(16*i+8)).StoreU32(0)
			}
			hostile, head = g.port, g.rx.desc
		} else {
			hostile, head = chainGuest(t, s, 64)
		}
		small := func() uint64 { return s.Ports()[2].Pairs[0].RX.Drops["too_small"] }
		a.send(broadcasts(1, 1)...)
		waitFor(t, func() bool { return small() == 1 })
		(head + 8).StoreU64(0) // not for writing: broken, for who looks
		for range 3 {
			a.send(broadcasts(64, 1)...)
			if got := b.receive(64, 5*time.Second); len(got) < 64 {
				t.Fatalf("the other guest got %d frames, want 64", len(got))
			}
		}
		waitFor(t, func() bool { return small() == 1+3*64 })
		if hostile.broken.Load() {
			t.Errorf("mergeable=%v: the buffer was looked at again: %v", mergeable, *hostile.failure.Load())
		}
	}
}

// TestSmallBufferThenLarge: a frame that does not fit the next buffer is lost, a shorter one fits, and then the buffer behind counts.
func TestSmallBufferThenLarge(t *testing.T) {
	for _, hardware := range []bool{false, true} { // both ways of frames
		c := Config{VM2VM: VM2VMSoftware}
		if hardware {
			c.VM2VM = VM2VMHardware
		}
		s := startSwitch(t, c)
		a, b := newGuest(t, s, 64), newGuest(t, s, 64)
		b.send(testFrame(0xee, 2, 60, 0))
		waitFor(t, func() bool { return len(s.Addresses()) == 1 })
		for i := range 64 {
			if i%2 == 0 {
				(b.rx.desc + ptr(16*i+8)).StoreU32(rigHeader + 100)
			}
		}
		for round := range 40 { // more than the ring has
			for _, size := range []int{300, 101, 60, 100, 300} { // lost, lost, small buffer; large, lost; of the next round: small
				a.send(testFrame(2, 1, size, byte(round)))
			}
			got := b.receive(2, 5*time.Second)
			if len(got) != 2 || len(got[0]) != 60 || len(got[1]) != 100 {
				t.Fatalf("hardware=%v, round %d: %d frames", hardware, round, len(got))
			}
		}
		waitFor(t, func() bool { return s.Ports()[0].Pairs[0].TX.Packets == 200 })
		if rx, tx := s.Ports()[1].Pairs[0].RX, s.Ports()[0].Pairs[0].TX; rx.Drops["too_small"] != 120 || tx.Drops["too_small"] != 120 || tx.Delivered != 80 {
			t.Errorf("hardware=%v: receiver %+v, sender %+v", hardware, rx, tx)
		}
	}
}

// trickle forwards n bursts of 3 frames to guest 1, which offers a buffer before each, and tells how often the worker waited.
func trickle(t *testing.T, r *bench, n int, frame []byte) uint64 {
	t.Helper()
	to := r.guests[1]
	ring := r.w.table.ports[1].rx[0]
	before := ring.c.retries.Load()
	for range n {
		to.rx.recycle()
		r.guests[0].send(frame, frame, frame)
		if r.w.ingress(r.w.table.ports[0].tx[0], virtio.BurstSize) != 3 {
			t.Fatal("burst not taken")
		}
		r.w.notify()
	}
	return ring.c.retries.Load() - before
}

// patientBench has two guests, the second with one buffer, which are worth waiting for.
func patientBench(t *testing.T) *bench {
	t.Helper()
	r := newBench(t, 2, 64)
	r.learn(t, 1)
	c := &r.w.sw.config
	c.RxRetry, c.RxRetryNum, c.RxRetryDelay = true, 1, 100*time.Microsecond
	for range 63 / 3 { // what is left is one buffer
		r.guests[0].send(unicast(), unicast(), unicast())
		r.w.ingress(r.w.table.ports[0].tx[0], virtio.BurstSize)
	}
	r.w.notify()
	r.guests[1].rx.seen = r.guests[1].rx.usedIndex()
	return r
}

// unicast is a frame from port 0 to port 1 of a bench.
func unicast() []byte {
	f := testFrame(0, 0, 60, 0)
	for k, m := range []uint64{uint64(address(1, 0)), uint64(address(0, 0))} {
		for j := range 6 {
			f[6*k+j] = byte(m >> (40 - 8*j))
		}
	}
	return f
}

// TestWaitingHasABudget: a guest that offers a buffer now and then makes the switch wait for it for a bounded part of the time, and all such guests
// together a worker.
func TestWaitingHasABudget(t *testing.T) {
	r := patientBench(t)
	port := r.guests[1].port
	most := uint64(portPatience / r.w.sw.config.RxRetryDelay)
	if n := trickle(t, r, 64, unicast()); n == 0 || n > most {
		t.Errorf("waited %d times for one guest, want 1 to %d", n, most)
	}
	port.patience.Store(0)
	if n := trickle(t, r, 4, unicast()); n != 0 {
		t.Errorf("waited %d times for a guest whose budget is used up", n)
	}
	r.w.sw.workers = []*worker{r.w}
	r.w.sw.refillPatience()
	if n := trickle(t, r, 4, unicast()); n == 0 {
		t.Error("did not wait in the next tick")
	}
	port.patience.Store(int64(time.Hour))
	r.w.patience.Store(int64(workerPatience))
	most = uint64(workerPatience / r.w.sw.config.RxRetryDelay)
	if n := trickle(t, r, 256, unicast()); n == 0 || n > most {
		t.Errorf("a worker waited %d times, want 1 to %d", n, most)
	}
}

// TestNoWaitingForGroups: frames for everybody wait for nobody.
func TestNoWaitingForGroups(t *testing.T) {
	r := patientBench(t)
	f := unicast()
	copy(f, everybody)
	if n := trickle(t, r, 8, f); n != 0 {
		t.Errorf("waited %d times for a receiver of frames for everybody", n)
	}
	if n := trickle(t, r, 1, unicast()); n == 0 {
		t.Error("a guest that lost frames for everybody is not waited for any more")
	}
}
