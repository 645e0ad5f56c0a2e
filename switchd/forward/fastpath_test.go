package forward

import (
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/policy"
	"vhostkit/switchd/virtio"
)

// fanOut is a worker, one of two, that the test drives, and guests whose addresses are known. Guest 0 offers a burst with three frames for each of
// the others, in turn.
func fanOut(t *testing.T, guests int) (*worker, *transmitRing, []*guest) {
	t.Helper()
	s := New(Config{VM2VM: VM2VMSoftware, MaxFrame: StandardFrame, MACLimit: 64, Cores: []int{-1, -1}, OnEvent: func(Event) {}})
	var list []*guest
	for i := range guests {
		g := newGuest(t, s, 256)
		if _, ok := s.register(g.port, ether.MAC(0x020000000000+i), 1); !ok {
			t.Fatal("not learned")
		}
		list = append(list, g)
	}
	w, err := newWorker(s, 0, -1, testScale)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		containing(w.notify)
		checkSums(t, s, w)
		w.close()
	})
	w.adopt()
	var frames [][]byte
	for n := range 3 {
		for i := 1; i < guests; i++ {
			frames = append(frames, testFrame(byte(i), 0, 64+i, byte(n)))
		}
	}
	list[0].send(frames...)
	return w, w.table.ports[0].tx[0], list
}

// containing runs a function as a worker would: faults on guest memory are panics.
func containing(f func()) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	f()
}

// got wants the three frames of a guest, in order.
func (g *guest) got(t *testing.T, i int) {
	t.Helper()
	frames := g.receive(3, 5*time.Second)
	if len(frames) != 3 {
		t.Fatalf("guest %d got %d frames, want 3", i, len(frames))
	}
	for n, f := range frames {
		if want := testFrame(byte(i), 0, 64+i, byte(n)); string(f) != string(want) {
			t.Errorf("guest %d: frame %d is % x, want % x", i, n, f, want)
		}
	}
}

// A receive ring that another worker has holds up no other receiver of the burst, and gets its frames when it is free.
func TestBurstWaitsForBusyRingLast(t *testing.T) {
	w, r, guests := fanOut(t, 5)
	busy := w.table.ports[2].rx[0]
	busy.owner.held.Store(1)
	done := make(chan int)
	go func() { done <- w.ingress(r, virtio.BurstSize) }()
	for _, i := range []int{1, 3, 4} {
		guests[i].got(t, i)
	}
	if n := guests[2].rx.usedIndex(); n != 0 {
		t.Errorf("%d buffers of a ring were used that another worker has", n)
	}
	busy.owner.held.Store(0)
	if n := <-done; n != 12 {
		t.Errorf("%d buffers were taken, want 12", n)
	}
	guests[2].got(t, 2)
	for i, v := range w.table.ports {
		if v.rx[0].owner.held.Load() != 0 {
			t.Errorf("the ring of guest %d was not given back", i)
		}
	}
	if c := r.c.snapshot(); c.Delivered != 12 || c.Dropped() != 0 {
		t.Errorf("%+v", c)
	}
}

// A receiver whose memory is gone costs the others of the burst nothing, be it the first or the last of them.
func TestBurstWithBrokenReceiver(t *testing.T) {
	for _, broken := range []int{1, 3, 5} {
		w, r, guests := fanOut(t, 6)
		if err := unix.Ftruncate(guests[broken].fd, 0); err != nil {
			t.Fatal(err)
		}
		containing(func() { w.ingress(r, virtio.BurstSize) })
		for i := 1; i < len(guests); i++ {
			if i != broken {
				guests[i].got(t, i)
			}
			if v := w.table.ports[i]; v.port.broken.Load() != (i == broken) || v.rx[0].owner.held.Load() != 0 {
				t.Errorf("guest %d: broken %v, owned %d", i, v.port.broken.Load(), v.rx[0].owner.held.Load())
			}
		}
		c := r.c.snapshot()
		lost := c.Dropped() + w.table.ports[broken].rx[0].c.snapshot().Dropped()
		if c.Packets != 15 || c.Delivered != 12 || lost != 3 {
			t.Errorf("%d frames of 15 were taken, %d delivered, %d counted as lost; want 12 and 3", c.Packets, c.Delivered, lost)
		}
	}
}

// A receiver with few buffers gets what fits, the others everything.
func TestBurstToFullRing(t *testing.T) {
	w, r, guests := fanOut(t, 4)
	v := w.table.ports[2]
	var views virtio.Views
	for left := 256 - 2; left > 0; { // two buffers are left
		n, _ := v.rx[0].queue.FetchViews(views[:min(left, len(views))])
		v.rx[0].queue.CompleteViews(views[:n])
		left -= n
	}
	guests[2].rx.seen = guests[2].rx.usedIndex()
	if n := w.ingress(r, virtio.BurstSize); n != 9 {
		t.Errorf("%d buffers were taken, want 9", n)
	}
	guests[1].got(t, 1)
	guests[3].got(t, 3)
	if n := guests[2].rx.usedIndex() - guests[2].rx.seen; n != 2 {
		t.Errorf("%d frames arrived where two buffers were left", n)
	}
	if c := r.c.snapshot(); c.Delivered != 8 || v.rx[0].c.snapshot().Dropped() != 1 {
		t.Errorf("%+v, and %+v", c, v.rx[0].c.snapshot())
	}
}

// Nothing is allocated for frames on their way, to one receiver or to many, simple or not.
func TestForwardingAllocatesNothing(t *testing.T) {
	for _, c := range []struct {
		name             string
		ports, addresses int
		pairs, general   bool
	}{{"pair", 2, 1, true, false}, {"addresses", 2, 64, true, false}, {"many receivers", 16, 4, false, false}, {"slow path", 4, 2, false, true}} {
		t.Run(c.name, func(t *testing.T) {
			r := newBench(t, c.ports, 256)
			r.learn(t, c.addresses)
			for p := range r.guests {
				r.fill(p, c.addresses, 300, c.pairs)
			}
			if c.general {
				for _, tx := range r.w.tx { // as with --vm2vm 2
					tx.plain, tx.port.rules.Local = false, policy.LocalHardware
				}
			}
			p := 0
			turn := func() {
				r.burst(t, p%c.ports, c.pairs)
				p++
			}
			for range 8 * c.ports {
				turn()
			}
			if n := testing.AllocsPerRun(200, turn); n != 0 {
				t.Errorf("%v allocations a burst", n)
			}
			if c := r.w.tx[0].c.snapshot(); c.Dropped() != 0 || c.Delivered != c.Packets || c.Packets == 0 {
				t.Errorf("%+v", c)
			}
		})
	}
}
