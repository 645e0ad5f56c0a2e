package forward

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/virtio"
)

// fickleUplink takes some of what it is given to send, as the test wants it to, and brings what the test hands it.
type fickleUplink struct {
	poolsUplink
	buffer *guestmem.Buffer

	mu      sync.Mutex
	takes   func(n int) int
	pending []uplink.RxFrame
	fails   error
}

func newFickleUplink(tb testing.TB, takes func(n int) int) *fickleUplink {
	tb.Helper()
	b, err := guestmem.NewBuffer(4096)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(b.Close)
	return &fickleUplink{buffer: b, takes: takes}
}

func (u *fickleUplink) Queue(int) uplink.Queue { return u }

func (u *fickleUplink) Send(frames []uplink.TxFrame, _ *uplink.InFlight) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.takes(len(frames)), u.fails
}

func (u *fickleUplink) Receive(frames []uplink.RxFrame) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := copy(frames, u.pending)
	u.pending = u.pending[n:]
	return n, nil
}

// bring lets n frames of 100 bytes for an address come, with a VLAN's tag. All that came before must have been dealt with.
func (u *fickleUplink) bring(n int, to ether.MAC, vlan ether.VLAN) {
	f := testFrame(0, 0x77, 100, 1)
	for j := range 6 {
		f[j] = byte(to >> (40 - 8*j))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	copy(u.buffer.Bytes(), f)
	for range n {
		u.pending = append(u.pending, uplink.RxFrame{Addr: u.buffer.Addr(0), Len: 100, Tagged: true, Stripped: true, VLAN: vlan})
	}
}

// TestFloodIsDeliveredOrDropped: a frame for everybody is delivered once, whoever did not get it, or dropped once; who did not get it counts that.
func TestFloodIsDeliveredOrDropped(t *testing.T) {
	for _, c := range []struct {
		name              string
		receivers         int
		full              bool // the receivers have no buffers
		takes             int  // of the uplink; -1: there is none
		delivered, copies uint64
		drops, outDrops   string
	}{
		{"a guest gets it, the uplink is full", 1, false, 0, 1, 0, "", "uplink_full"},
		{"nobody gets it", 2, true, 0, 0, 0, "uplink_full", "uplink_full"},
		{"no guest gets it", 2, true, -1, 0, 0, "ring_full", ""},
		{"all get it", 2, false, 1, 1, 2, "", ""},
		{"the uplink alone", 2, true, 1, 1, 0, "", ""},
		{"there is nobody", 0, false, -1, 0, 0, "no_destination", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := Config{VM2VM: VM2VMSoftware, RxRetry: true, RxRetryNum: 4, RxRetryDelay: 15 * time.Microsecond}
			if c.takes >= 0 {
				config.Uplink = newFickleUplink(t, func(int) int { return c.takes })
			}
			s := startSwitch(t, config)
			a := newGuest(t, s, 64)
			for range c.receivers {
				g := newGuest(t, s, 64)
				if c.full {
					(g.rx.avail).StoreReleaseU32(0)
				}
			}
			a.send(broadcasts(1, 1)...)
			waitFor(t, func() bool { return s.Ports()[0].Pairs[0].TX.Packets == 1 })
			tx := s.Ports()[0].Pairs[0].TX
			if tx.Delivered != c.delivered || tx.Copies != c.copies || tx.Delivered == 0 && tx.Drops[c.drops] != 1 || tx.Dropped()+tx.Delivered != 1 {
				t.Errorf("%+v, want %d delivered, %d copies, drops %q", tx, c.delivered, c.copies, c.drops)
			}
			if _, out := s.UplinkStats(); c.outDrops != "" && (out.Drops[c.outDrops] != 1 || out.Dropped() != 1) {
				t.Errorf("the uplink: %+v, want %s", out, c.outDrops)
			}
			waitFor(t, func() bool { // what a receiver got is counted at the end of the round
				counted := true
				for _, p := range s.Ports()[1:] {
					rx := p.Pairs[0].RX
					counted = counted && rx.Packets+rx.Dropped() > 0
				}
				return counted
			})
			for _, p := range s.Ports()[1:] {
				if rx := p.Pairs[0].RX; rx.Packets+rx.Dropped() != 1 || c.full != (rx.Drops["ring_full"] == 1) || rx.Retries != 0 {
					t.Errorf("port %d: %+v", p.ID, rx)
				}
			}
		})
	}
}

// TestUplinkCannotReadFrame: what the uplink could not read from its sender's memory is lost by a fault, and the sender is stopped.
func TestUplinkCannotReadFrame(t *testing.T) {
	u := newFickleUplink(t, func(n int) int { return n / 2 })
	u.fails = unix.EFAULT
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, Uplink: u})
	a := newGuest(t, s, 64)
	a.send(testFrame(9, 1, 60, 0), testFrame(9, 1, 60, 0), testFrame(9, 1, 60, 0), testFrame(9, 1, 60, 0))
	waitFor(t, func() bool { return s.Ports()[0].Pairs[0].TX.Packets == 4 })
	_, out := s.UplinkStats()
	if tx := s.Ports()[0].Pairs[0].TX; tx.Delivered != 2 || tx.Drops["fault"] != 2 || out.Drops["fault"] != 2 || !a.port.broken.Load() {
		t.Errorf("sender %+v, uplink %+v, stopped %v", tx, out, a.port.broken.Load())
	}
}

// TestFaultInTheMiddle: what was written into a receiver's buffers when its memory broke, but not published, is lost, and counted once.
func TestFaultInTheMiddle(t *testing.T) {
	for _, to := range []string{"one", "everybody"} {
		s := startSwitch(t, Config{VM2VM: VM2VMHardware}) // without the fast path
		a, b := newGuest(t, s, 64), newGuest(t, s, 64)
		b.send(testFrame(0xee, 2, 60, 0))
		waitFor(t, func() bool { return len(s.Addresses()) == 1 })
		b.port.Update([]*virtio.Queue{b.rx.queue, nil}, rigFeatures, b.memory) // it would be found broken when it is polled
		if err := unix.Ftruncate(b.fd, 0x10000+8*rigBuffer); err != nil {      // buffers 0 to 7 are there
			t.Fatal(err)
		}
		var frames [][]byte
		for range 20 {
			f := testFrame(2, 1, 60, 0)
			if to == "everybody" {
				copy(f, everybody)
			}
			frames = append(frames, f)
		}
		a.send(frames...)
		waitFor(t, func() bool { return s.Ports()[0].Pairs[0].TX.Packets == 20 })
		published := uint64(b.rx.usedIndex())
		waitFor(t, func() bool { return s.Ports()[1].Pairs[0].RX.Packets == published })
		tx, rx := s.Ports()[0].Pairs[0].TX, s.Ports()[1].Pairs[0].RX
		if tx.Delivered != published || tx.Dropped() != 20-published || rx.Drops["fault"]+tx.Drops["not_ready"] != 20-published {
			t.Errorf("to %s: %d buffers were published; sender %+v, receiver %+v", to, published, tx, rx)
		}
		if want := map[string]uint64{"one": 0, "everybody": 8}[to]; published != want {
			t.Errorf("to %s: %d buffers were published, want %d", to, published, want)
		}
	}
}

// scramble is a random scene on a switch: what it did, and what must have come of it.
type scramble struct {
	t       *testing.T
	rnd     *rand.Rand
	s       *Switch
	u       *fickleUplink
	guests  []*guest
	address []byte   // of each guest
	sent    []uint64 // by each
	meant   []uint64 // for each
	touched []bool   // its memory is gone, or its ring was stopped for a while
	brought uint64   // by the uplink
	last    byte
	faults  bool
}

// TestCountersAddUp lets guests and the uplink send at random to guests that do not keep up, break, leave, come and stop their rings, and to an uplink
// that takes what it likes. checkSums looks at the sums at the end, as after every test.
func TestCountersAddUp(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 28))
			c := &scramble{t: t, rnd: rnd, faults: seed%2 == 1}
			c.u = newFickleUplink(t, func(n int) int { return takesOf(seed, n) })
			config := Config{VM2VM: VM2VMSoftware, Uplink: c.u, RxRetry: true, RxRetryNum: 2, RxRetryDelay: 10 * time.Microsecond, Cores: []int{-1}}
			if seed%3 == 0 {
				config.Cores = append(config.Cores, -1)
			}
			if seed%4 == 0 {
				config.VM2VM = VM2VMHardware
			}
			c.s = startSwitch(t, config)
			for range 6 {
				c.guests, c.address, c.sent = append(c.guests, nil), append(c.address, 0), append(c.sent, 0)
				c.meant, c.touched = append(c.meant, 0), append(c.touched, false)
				c.plug(len(c.guests) - 1)
			}
			for range 150 {
				c.step()
			}
			c.check()
		})
	}
}

// takesOf is how many of n frames an uplink takes: none, some or all, without state that is shared between goroutines.
func takesOf(seed uint64, n int) int {
	switch x := (seed + uint64(n)*2654435761) >> 3; x % 3 {
	case 0:
		return 0
	case 1:
		return n / 2
	}
	return n
}

// plug puts a guest into a place, with an address that is known.
func (c *scramble) plug(i int) {
	features := rigFeatures
	if c.faults {
		features = []virtio.Features{rigFeatures, mergeRx}[c.rnd.IntN(2)]
	}
	g := newGuestWith(c.t, c.s, 64, features)
	c.last++
	c.guests[i], c.address[i], c.sent[i], c.meant[i], c.touched[i] = g, c.last, 1, 0, false
	g.send(testFrame(0xfe, c.last, 60, 0)) // to nobody here
	c.await(g)
}

// await waits until a guest's frames were taken, or it was stopped.
func (c *scramble) await(g *guest) {
	c.t.Helper()
	waitFor(c.t, func() bool { return g.port.broken.Load() || g.port.pairs[0].tx.packets.Load() >= uint64(g.tx.next) })
}

func (c *scramble) step() {
	i := c.rnd.IntN(len(c.guests))
	g := c.guests[i]
	if g.port.broken.Load() {
		g.port.Close()
		c.plug(i)
		return
	}
	switch n := c.rnd.IntN(100); {
	case n < 50:
		c.send(i)
	case n < 75:
		g.rx.recycle()
	case n < 88:
		to := ether.MAC(0x020000000000) | ether.MAC(c.address[i])
		count := 1 + c.rnd.IntN(40)
		if c.rnd.IntN(4) == 0 {
			to = 0xffffffffffff
		} else if c.rnd.IntN(4) == 0 {
			to, count = to+0x80, 3 // is not there
			c.meant[i] -= 3
		}
		c.meant[i] += uint64(count)
		c.brought += uint64(count)
		c.u.bring(count, to, g.port.VLAN())
		waitFor(c.t, func() bool { in, _ := c.s.UplinkStats(); return in.Packets == c.brought })
	case n < 92 && c.faults:
		c.touched[i] = true
		if err := unix.Ftruncate(g.fd, int64(c.rnd.IntN(2))*(0x10000+4096*int64(c.rnd.IntN(30)))); err != nil {
			c.t.Fatal(err)
		}
		c.strike(i)
	case n < 95:
		g.port.Close()
		c.plug(i)
	case n < 98:
		c.touched[i] = true
		g.port.Update([]*virtio.Queue{nil, g.tx.queue}, rigFeatures, g.memory)
		c.send((i + 1) % len(c.guests))
		g.port.Update([]*virtio.Queue{g.rx.queue, g.tx.queue}, rigFeatures, g.memory)
	}
}

// send lets a guest send some frames of all kinds.
func (c *scramble) send(i int) {
	g := c.guests[i]
	if g.port.broken.Load() {
		return
	}
	var frames [][]byte
	for range 1 + c.rnd.IntN(40) {
		to := c.rnd.IntN(len(c.guests))
		f := testFrame(c.address[to], c.address[i], 60+c.rnd.IntN(200), 0)
		switch c.rnd.IntN(12) {
		case 0, 1:
			copy(f, everybody)
			for k := range c.meant {
				if k != i {
					c.meant[k]++
				}
			}
		case 2:
			f[5] = 0xfd // outside
		case 3:
			f = f[:13]
		case 4:
			f[6] |= 1 // no source
		case 5:
			f = testFrame(c.address[to], c.address[i], 1900, 0) // too long
		default:
			if to != i {
				c.meant[to]++
			}
		}
		frames = append(frames, f)
	}
	c.sent[i] += uint64(len(frames))
	g.send(frames...)
	c.await(g)
}

// strike lets everybody send to a guest whose memory is gone, until the switch has found that out.
func (c *scramble) strike(i int) {
	g := c.guests[i]
	for k, other := range c.guests {
		if k == i || other.port.broken.Load() {
			continue
		}
		f := testFrame(c.address[i], c.address[k], 300, 0)
		if k%2 == 0 {
			copy(f, everybody)
		}
		other.send(f, f, f)
		c.sent[k] += 3
		c.await(other)
	}
	waitFor(c.t, func() bool { return g.port.broken.Load() })
}

// check looks at what is known: senders that live have sent all of it, and, without faults, what was meant for a guest has arrived or is lost there.
func (c *scramble) check() {
	for i, g := range c.guests {
		if g.port.broken.Load() {
			continue
		}
		if tx := g.port.pairs[0].tx.snapshot(); tx.Packets != c.sent[i] {
			c.t.Errorf("guest %d has sent %d frames, %d were counted", i, c.sent[i], tx.Packets)
		}
		if c.faults || c.touched[i] {
			continue
		}
		rx := g.port.pairs[0].rx.snapshot()
		for end := time.Now().Add(5 * time.Second); rx.Packets+rx.Dropped() < c.meant[i] && time.Now().Before(end); {
			time.Sleep(time.Millisecond) // what arrived is counted at the end of a round
			rx = g.port.pairs[0].rx.snapshot()
		}
		if rx.Packets+rx.Dropped() != c.meant[i] {
			c.t.Errorf("guest %d was meant to get %d frames; %d arrived, %d were lost %v", i, c.meant[i], rx.Packets, rx.Dropped(), rx.Drops)
		}
	}
}

// TestBytesOfFramesToNobody: what a guest sends has as many bytes as it is long, and costs its port as much, wherever it goes.
func TestBytesOfFramesToNobody(t *testing.T) {
	for name, c := range map[string]struct {
		to     byte
		reason Reason
	}{"unknown": {9, DropNoDestination}, "itself": {1, DropOwnAddress}} {
		t.Run(name, func(t *testing.T) {
			s := startSwitch(t, Config{VM2VM: VM2VMSoftware})
			g := newGuest(t, s, 64)
			const frames, length = 10, 300
			for range frames {
				g.send(testFrame(c.to, 1, length, 1))
			}
			until(t, "all are counted", func() bool { return g.port.Stats().Pairs[0].TX.Packets == frames })
			tx := g.port.Stats().Pairs[0].TX
			if tx.Bytes != frames*length || tx.Drops[c.reason.String()] != frames {
				t.Errorf("%d bytes, %d drops; want %d and %d", tx.Bytes, tx.Drops[c.reason.String()], frames*length, frames)
			}
		})
	}
}
