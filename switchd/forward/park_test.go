package forward

import (
	"bytes"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"vhostkit/switchd/virtio"
)

// TestSlowFault: a worker waits in a page fault that nobody serves. The other worker goes on, also after much garbage was made: the collector is
// not let loose on a world that it cannot stop. When the fault is served, everything is as before.
func TestSlowFault(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // as the daemon has it: only Parked collects
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, Cores: []int{-1, -1}})
	var guests []*guest
	for range 6 {
		guests = append(guests, newGuest(t, s, 64))
	}
	worker := func(g *guest) int { return g.port.state.tx[0].worker }
	evil := guests[0]
	var a, b *guest // of the other worker
	for _, g := range guests[1:] {
		if worker(g) != worker(evil) {
			a, b = b, g
		}
	}
	const addressA, addressB, addressVictim = 1, 2, 3
	a.send(testFrame(0xee, addressA, 60, 0))
	b.send(testFrame(0xee, addressB, 60, 0))
	var victim *guest // has frames in the burst that hangs: its ring is then the hanging worker's
	for _, g := range guests[1:] {
		if worker(g) == worker(evil) {
			victim = g
		}
	}
	victim.send(testFrame(0xee, addressVictim, 60, 0))
	waitFor(t, func() bool { return len(s.Addresses()) == 3 })

	// The evil guest's second frame begins before a page that takes for ever, and ends in it: its header is judged, the receiver's ring taken, and
	// the copy hangs.
	const page = 64 << 10
	at, ok := evil.memory.User(rigMemory-page, page)
	if !ok {
		t.Fatal("no such page")
	}
	release := hangFaults(t, at, page)
	evil.tx.put(0, testFrame(addressVictim, 9, 60, 0))
	evil.tx.put(1, testFrame(addressVictim, 9, 60, 0))
	const before = 64
	copy((at - before + rigHeader).Bytes(before-rigHeader), testFrame(addressVictim, 9, before-rigHeader, 0))
	(evil.tx.desc + 16).StoreU64(rigMemory - page - before)
	(evil.tx.desc + 16 + 8).StoreU32(rigHeader + 200)
	evil.tx.offer(2)
	time.Sleep(50 * time.Millisecond)

	works := func() bool {
		a.send(testFrame(addressB, addressA, 80, 7))
		got := b.receive(1, 2*time.Second)
		return len(got) == 1 && bytes.Equal(got[0], testFrame(addressB, addressA, 80, 7))
	}
	var stats runtime.MemStats
	collected := 0
	for i := range 20 {
		if !works() {
			t.Fatalf("after %d attempts to collect: the other worker's guests are cut off", i)
		}
		if s.Parked(20*time.Millisecond, func() { runtime.GC() }) {
			collected++
		}
	}
	if collected > 0 {
		t.Errorf("garbage was collected %d times although a worker hangs", collected)
	}
	for range 3 { // the hanging worker has the victim's ring: whoever sends to it must not wait for it
		a.send(testFrame(addressVictim, addressA, 60, 0))
		if !works() {
			t.Fatal("a frame for a ring that a hanging worker has holds up the sender's worker")
		}
	}
	release()
	waitFor(t, func() bool {
		return s.Parked(100*time.Millisecond, func() { runtime.GC(); runtime.ReadMemStats(&stats) })
	})
	if !works() {
		t.Error("the pair does not talk afterwards")
	}
	victim.receive(1, time.Second)
}

// TestParkedUnderTraffic: workers that are busy park at once, go on afterwards, and lose nothing.
func TestParkedUnderTraffic(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, Cores: []int{-1, -1}})
	a, b := newGuest(t, s, 64), newGuest(t, s, 64)
	b.send(testFrame(0xee, 2, 60, 0))
	waitFor(t, func() bool { return len(s.Addresses()) == 1 })
	done := make(chan bool)
	go func() {
		defer close(done)
		for range 50 {
			s.Parked(time.Second, func() { time.Sleep(100 * time.Microsecond) })
		}
	}()
	for i := range 500 {
		a.send(testFrame(2, 1, 100, byte(i)))
		if got := b.receive(1, 5*time.Second); len(got) != 1 || !bytes.Equal(got[0], testFrame(2, 1, 100, byte(i))) {
			t.Fatalf("frame %d: got %d", i, len(got))
		}
	}
	<-done
	if n := a.tx.usedIndex(); n != 500 {
		t.Errorf("%d buffers returned, want 500", n)
	}
}

// TestParkedWaitsForTouch: who touches guest memory on the control side keeps the collector away.
func TestParkedWaitsForTouch(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
	g := newGuest(t, s, 8)
	_ = g.port.Touch(func() {
		if s.Parked(5*time.Millisecond, func() {}) {
			t.Error("parked while guest memory is touched")
		}
	})
	if !s.Parked(5*time.Second, func() {}) {
		t.Error("not parked afterwards")
	}
}

// TestKicksAreSeen: a worker that sleeps wakes up for each kick, whose counter nobody reads.
func TestKicksAreSeen(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
	g, kick := newGuest(t, s, 64), newEventfd(t)
	q, err := virtio.NewQueue(virtio.Config{
		Size: 64, Features: rigFeatures, Desc: g.tx.desc, Driver: g.tx.avail, Device: g.tx.used, Memory: g.memory, Kick: kick, Call: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	g.port.Update([]*virtio.Queue{g.rx.queue, q}, rigFeatures, g.memory)
	for i := range 20 {
		waitFor(t, s.Idle)
		if g.tx.used.LoadU16() != 0 {
			t.Fatal("the worker sleeps and wants no kick")
		}
		g.send(testFrame(0xee, 1, 60, 0))
		begin := time.Now()
		kickNow(t, kick)
		waitFor(t, func() bool { return g.tx.usedIndex() == uint16(i+1) })
		if took := time.Since(begin); took > 500*time.Millisecond {
			t.Errorf("kick %d: seen after %v", i, took)
		}
	}
	if kicks := s.Ports()[0].Pairs[0].TX.Kicks; kicks != 20 {
		t.Errorf("%d kicks counted, want 20", kicks)
	}
}
