package forward

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/virtio"
)

func TestUnicastAfterLearning(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
	a, b, c := newGuest(t, s, 64), newGuest(t, s, 64), newGuest(t, s, 64)
	b.send(testFrame(0xff, 2, 60, 0)) // unknown destination: teaches the switch where 2 is
	waitFor(t, func() bool { return len(s.Addresses()) == 1 })
	want := testFrame(2, 1, 300, 7)
	a.send(want, testFrame(2, 1, 14, 0))
	got := b.receive(2, time.Second)
	if len(got) != 2 || !bytes.Equal(got[0], want) || len(got[1]) != 14 {
		t.Fatalf("b received %d frames: %x", len(got), got)
	}
	if got := c.receive(1, 20*time.Millisecond); len(got) != 0 {
		t.Errorf("a bystander received %x", got)
	}
}

func TestFloodReachesOthersOnce(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
	guests := []*guest{newGuest(t, s, 64), newGuest(t, s, 64), newGuest(t, s, 64)}
	f := testFrame(0, 1, 64, 1)
	copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	guests[0].send(f)
	for i, g := range guests[1:] {
		if got := g.receive(2, 50*time.Millisecond); len(got) != 1 || !bytes.Equal(got[0], f) {
			t.Errorf("guest %d received %d frames, want the broadcast once", i+1, len(got))
		}
	}
	if got := guests[0].receive(1, 20*time.Millisecond); len(got) != 0 {
		t.Errorf("the sender received its own broadcast")
	}
}

func TestDropsAreCountedByReason(t *testing.T) {
	own := testFrame(1, 1, 60, 0)
	multicastSource := testFrame(2, 1, 60, 0)
	multicastSource[6] |= 1
	for _, c := range []struct {
		name  string
		frame []byte
		want  Reason
	}{
		{"runt", make([]byte, 13), DropRunt},
		{"oversized", testFrame(2, 1, StandardFrame+1, 0), DropOversized},
		{"own address", own, DropOwnAddress},
		{"group source", multicastSource, DropBadSource},
		{"unknown destination", testFrame(9, 1, 60, 0), DropNoDestination},
		{"address of another port", testFrame(9, 2, 60, 0), DropDuplicateMAC},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
			a, b := newGuest(t, s, 64), newGuest(t, s, 64)
			b.send(testFrame(0xee, 2, 60, 0))
			waitFor(t, func() bool { return len(s.Addresses()) == 1 })
			a.send(c.frame)
			waitFor(t, func() bool { return s.Ports()[0].Pairs[0].TX.Packets == 1 })
			if drops := s.Ports()[0].Pairs[0].TX.Drops; drops[c.want.String()] != 1 || len(drops) != 1 {
				t.Errorf("drops are %v, want one %s", drops, c.want)
			}
		})
	}
}

func TestFullRingRetriesThenCounts(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, RxRetry: true, RxRetryNum: 4, RxRetryDelay: 15 * time.Microsecond})
	a, b := newGuest(t, s, 64), newGuest(t, s, 64)
	b.send(testFrame(0xee, 2, 60, 0))
	waitFor(t, func() bool { return len(s.Addresses()) == 1 })
	for range 2 { // 64 buffers, 100 frames
		frames := make([][]byte, 50)
		for i := range frames {
			frames[i] = testFrame(2, 1, 60, byte(i))
		}
		before := a.tx.usedIndex()
		a.send(frames...)
		waitFor(t, func() bool { return a.tx.usedIndex() == before+50 })
	}
	rx := s.Ports()[1].Pairs[0].RX
	if rx.Packets != 64 || rx.Drops["ring_full"] != 36 || rx.Retries < 1 || rx.Retries > 4 {
		t.Errorf("receiver counts %d packets, %v, %d retries; want 64, ring_full 36, 1 to 4 (as long as there is time for them)", rx.Packets, rx.Drops, rx.Retries)
	}
}

func TestTruncatedMemoryCostsOnlyItsOwner(t *testing.T) {
	var mu sync.Mutex
	var failed []Event
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, OnEvent: func(e Event) {
		if e.Kind == EventFailed {
			mu.Lock()
			failed = append(failed, e)
			mu.Unlock()
		}
	}})
	a, b, bad := newGuest(t, s, 64), newGuest(t, s, 64), newGuest(t, s, 64)
	b.send(testFrame(0xee, 2, 60, 0))
	bad.send(testFrame(0xee, 3, 60, 0))
	waitFor(t, func() bool { return len(s.Addresses()) == 2 })
	if err := unix.Ftruncate(bad.fd, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 50 { // one frame for the broken guest between two for the good one
		a.send(testFrame(2, 1, 100, byte(i)), testFrame(3, 1, 100, 0), testFrame(2, 1, 101, byte(i)))
		if got := b.receive(2, time.Second); len(got) != 2 || len(got[1]) != 101 {
			t.Fatalf("round %d: the bystander received %d of 2 frames", i, len(got))
		}
	}
	waitFor(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(failed) > 0 })
	mu.Lock()
	defer mu.Unlock()
	if len(failed) != 1 || failed[0].Port != bad.port.ID() {
		t.Errorf("failures reported: %v, want one, of port %d", failed, bad.port.ID())
	}
}

func TestUpdateUnderTraffic(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, Cores: []int{-1, -1}})
	a, b := newGuest(t, s, 64), newGuest(t, s, 64)
	b.send(testFrame(0xee, 2, 60, 0))
	waitFor(t, func() bool { return len(s.Addresses()) == 1 })
	for i := range 100 {
		g := newGuest(t, s, 64)
		if g.port.ID() != 2 {
			t.Fatalf("identifier %d is not the lowest free one", g.port.ID())
		}
		a.send(testFrame(2, 1, 100, byte(i)))
		g.send(testFrame(2, 3, 100, byte(i)))
		if got := b.receive(2, time.Second); len(got) != 2 {
			t.Fatalf("round %d: received %d of 2 frames", i, len(got))
		}
		g.port.Close()
		g.memory.Close() // a worker that still touched it would crash here
	}
}

func TestManyPortsAndAddressMove(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
	var guests []*guest
	for range 100 {
		guests = append(guests, newGuest(t, s, 8))
	}
	last := guests[99]
	for from := byte(1); from <= 3; from++ { // a guest that changes its address
		last.send(testFrame(0xee, from, 60, 0))
		waitFor(t, func() bool { return len(s.Addresses()) == int(from) })
		guests[0].send(testFrame(from, 0x50, 60, 0))
		if got := last.receive(1, time.Second); len(got) != 1 {
			t.Fatalf("port 99 is not reached by its address %d", from)
		}
		guests[0].send(testFrame(0xee, 0x50, 60, 0))
		if from == 1 {
			waitFor(t, func() bool { return len(s.Addresses()) == 2 })
			s.domain.Flush(guests[0].port.id.destination())
		}
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatal("condition not reached within 5 s")
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// While the control side waits for the workers it holds mu. Ageing, which holds what workers wait for, must not wait for mu then.
func TestAgeingDoesNotHoldUpWorkers(t *testing.T) {
	s := New(Config{VM2VM: VM2VMSoftware, MACLimit: 8, AddressAge: time.Second, OnEvent: func(Event) {}})
	p, err := s.AddPort(func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if reason, ok := s.learn(p, address(0, i)); !ok {
			t.Fatal(reason)
		}
	}
	s.mu.Lock() // as Update does
	aged := make(chan struct{})
	go func() { s.age(100); close(aged) }()
	select {
	case <-aged:
	case <-time.After(5 * time.Second):
		t.Error("ageing waits for the control side, which waits for a worker that learns an address")
	}
	s.mu.Unlock()
	<-aged
	if left := s.Addresses(); len(left) != 1 || left[0].MAC != address(0, 2) {
		t.Errorf("%v are left, want the newest", left)
	}
	s.config.AddressAge = 0
	s.age(1000)
	if left := s.Addresses(); len(left) != 1 {
		t.Errorf("%v are left without ageing", left)
	}
}

// A front-end that makes the eventfd block with which its driver is woken holds up neither a worker nor whoever waits for that worker, and harms
// not even itself.
func TestBlockingEventfd(t *testing.T) {
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
	g := newGuest(t, s, 64)
	call, err := unix.Eventfd(0, 0) // blocks
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(call)
	if _, err := unix.Write(call, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); err != nil { // when it is full
		t.Fatal(err)
	}
	rx, err := virtio.NewQueue(virtio.Config{
		Size: uint32(g.rx.size), Features: rigFeatures, Receive: true, Desc: g.rx.desc, Driver: g.rx.avail, Device: g.rx.used, Memory: g.memory,
		Kick: -1, Call: call,
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { g.port.Update([]*virtio.Queue{rx, g.tx.queue}, rigFeatures, g.memory); close(done) }()
	select {
	case <-done: // the driver of a new ring is woken once
	case <-time.After(5 * time.Second):
		t.Fatal("the control side waits for a worker that waits for the front-end")
	}
	if g.port.broken.Load() {
		t.Error("the device was stopped")
	}
}
