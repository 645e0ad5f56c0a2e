package forward

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/ticks"
	"vhostkit/switchd/virtio"
)

// guest is the driver side of a split-ring device, as simple as can be: buffer i of a ring is descriptor i.
type guest struct {
	memory *guestmem.Memory
	port   *Port
	fd     int
	rx, tx ring
}

type ring struct {
	desc, avail, used, data guestmem.Ptr
	size                    int
	next, seen              uint16 // avail index, used index
	write                   bool
	queue                   *virtio.Queue
}

const (
	rigMemory = 8 << 20
	rigBuffer = 2048
	rigHeader = 12
)

var rigFeatures = virtio.Bits(virtio.VIRTIO_F_VERSION_1)

func newRing(tb testing.TB, m *guestmem.Memory, base uint64, size int, write bool, features virtio.Features) ring {
	tb.Helper()
	at := func(off uint64) guestmem.Ptr {
		p, ok := m.User(base+off, 1)
		if !ok {
			tb.Fatalf("offset %#x is outside the rig's memory", off)
		}
		return p
	}
	r := ring{desc: at(0), avail: at(0x8000), used: at(0xa000), data: at(0x10000), size: size, write: write}
	for i := range size {
		d := r.desc + guestmem.Ptr(16*i)
		d.StoreU64(base + 0x10000 + uint64(i*rigBuffer))
		d.StoreU64(base + 0x10000 + uint64(i*rigBuffer))
		flags := uint64(0)
		if write {
			flags = 2
		}
		(d + 8).StoreU64(uint64(rigBuffer) | flags<<32)
	}
	q, err := virtio.NewQueue(virtio.Config{
		Size: uint32(size), Features: features, Receive: write, Desc: r.desc, Driver: r.avail, Device: r.used,
		Memory: m, Kick: -1, Call: -1,
	})
	if err != nil {
		tb.Fatal(err)
	}
	r.queue = q
	return r
}

func newGuest(tb testing.TB, s *Switch, size int) *guest {
	return newGuestWith(tb, s, size, rigFeatures)
}

// newGuestWith is a guest that has negotiated these features.
func newGuestWith(tb testing.TB, s *Switch, size int, features virtio.Features) *guest {
	tb.Helper()
	fd, err := unix.MemfdCreate("rig", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, rigMemory); err != nil {
		tb.Fatal(err)
	}
	m, err := guestmem.Map([]guestmem.RegionSpec{{GuestPhysAddr: 0, Size: rigMemory, UserAddr: 0, FD: fd}})
	if err != nil {
		tb.Fatal(err)
	}
	g := &guest{memory: m, fd: fd, rx: newRing(tb, m, 0, size, true, features),
		tx: newRing(tb, m, rigMemory/2, size, false, features)}
	if g.port, err = s.AddPort(func(error) {}); err != nil {
		tb.Fatal(err)
	}
	for i := range g.port.turns { // as if it had run for a while
		g.port.turns[i].limit = virtio.BurstSize
	}
	g.rx.offer(size)
	g.port.Update([]*virtio.Queue{g.rx.queue, g.tx.queue}, features, m)
	waitForTable(tb, s)
	return g
}

// waitForTable waits until the workers have the present table, if they run: Update does not wait for what it adds.
func waitForTable(tb testing.TB, s *Switch) {
	tb.Helper()
	if !s.running.Load() {
		return
	}
	epoch := s.table.Load().epoch
	for _, w := range s.workers {
		for end := time.Now().Add(10 * time.Second); w.passed.Load() < epoch; time.Sleep(20 * time.Microsecond) {
			if time.Now().After(end) {
				tb.Fatalf("worker %d does not take the table over", w.index)
			}
		}
	}
}

// offer makes the next n buffers available.
func (r *ring) offer(n int) {
	for range n {
		slot := int(r.next) % r.size
		(r.avail + 4 + guestmem.Ptr(2*slot)).StoreU16(uint16(slot))
		r.next++
	}
	r.avail.StoreReleaseU32(uint32(r.next) << 16)
}

func (r *ring) usedIndex() uint16 { return uint16(r.used.LoadAcquireU32() >> 16) }

// put writes a frame into the buffer that the next offer gives.
func (r *ring) put(ahead int, frame []byte) {
	slot := (int(r.next) + ahead) % r.size
	copy((r.data + guestmem.Ptr(slot*rigBuffer+rigHeader)).Bytes(len(frame)), frame)
	(r.desc + guestmem.Ptr(16*slot+8)).StoreU32(uint32(rigHeader + len(frame)))
}

func (g *guest) send(frames ...[]byte) {
	for i, f := range frames {
		g.tx.put(i, f)
	}
	g.tx.offer(len(frames))
}

// receive returns the frames that came, waiting until there are n of them or the time is up.
func (g *guest) receive(n int, limit time.Duration) [][]byte {
	var frames [][]byte
	for end := time.Now().Add(limit); len(frames) < n && time.Now().Before(end); {
		if g.rx.usedIndex() == g.rx.seen {
			time.Sleep(50 * time.Microsecond)
			continue
		}
		e := g.rx.used + 4 + guestmem.Ptr(8*(int(g.rx.seen)%g.rx.size))
		id, length := int(e.LoadU32()), int((e + 4).LoadU32())
		data := (g.rx.data + guestmem.Ptr(id*rigBuffer)).Bytes(length)
		frames = append(frames, append([]byte(nil), data[rigHeader:]...))
		g.rx.seen++
		g.rx.offer(1)
	}
	return frames
}

// startSwitch runs a switch until the test ends.
func startSwitch(tb testing.TB, c Config) *Switch {
	tb.Helper()
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	if c.MaxFrame == 0 {
		c.MaxFrame = StandardFrame
	}
	if c.MACLimit == 0 {
		c.MACLimit = 64
	}
	if c.VLANBase == 0 {
		c.VLANBase = 1000
	}
	s := New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for !s.running.Load() {
		time.Sleep(time.Millisecond)
	}
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
		checkSums(tb, s, s.workers...)
	})
	return s
}

// checkSums wants the counters of a switch to add up as QueueStats says. Nothing may move any more.
func checkSums(tb testing.TB, s *Switch, workers ...*worker) {
	tb.Helper()
	sent, got := uint64(0), uint64(0)
	sender := func(what string, c QueueStats) {
		tb.Helper()
		if c.Packets != c.Delivered+c.Dropped() {
			tb.Errorf("%s sent %d frames, of which %d were delivered and %d dropped %v", what, c.Packets, c.Delivered, c.Dropped(), c.Drops)
		}
		sent += c.Delivered + c.Copies
	}
	for _, p := range s.Ports() {
		for i, pair := range p.Pairs {
			sender(fmt.Sprintf("port %d, pair %d", p.ID, i), pair.TX)
			got += pair.RX.Packets
		}
	}
	gone := s.Gone()
	sender("ports that have gone", gone.TX)
	in, out := s.UplinkStats()
	sender("the uplink", in)
	for _, w := range workers { // of what the switch itself sends, only what arrived is counted
		own := w.discard.snapshot()
		sent += own.Delivered + own.Copies
	}
	if got += gone.RX.Packets + out.Packets; sent != got {
		tb.Errorf("%d frames were delivered, %d arrived", sent, got)
	}
}

func testFrame(to, from byte, size int, fill byte) []byte {
	f := make([]byte, size)
	copy(f, []byte{2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5})
	for i := headerLen; i < size; i++ {
		f[i] = fill + byte(i)
	}
	return f
}

// everybody is the broadcast address.
var everybody = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func ptr(i int) guestmem.Ptr { return guestmem.Ptr(i) }

// testScale is good enough where no time is measured.
var testScale = ticks.Measure(time.Millisecond)
