package ixgbe

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
	"vhostkit/test/nic82599"
)

// guestMemory is two regions of a guest, the second one not on a page of its own.
func guestMemory(tb testing.TB) *guestmem.Memory {
	tb.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 4<<20); err != nil {
		tb.Fatal(err)
	}
	m, err := guestmem.Map([]guestmem.RegionSpec{
		{GuestPhysAddr: 0, Size: 1 << 20, UserAddr: 0, FD: fd},
		{GuestPhysAddr: 1 << 32, Size: 2<<20 + 100, UserAddr: 1 << 32, MmapOffset: 1<<20 + 128, FD: fd},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.Close)
	return m
}

// lentFrame writes a frame into a guest's memory, cut into pieces at random places of both regions.
func lentFrame(m *guestmem.Memory, rnd *rand.Rand, port, vlan int, data []byte, pieces int) uplink.TxFrame {
	f := uplink.TxFrame{HeaderLen: ether.HeaderLen + ether.TagLen, Pool: uplink.Pool(port), Len: len(data) + ether.TagLen}
	copy(f.Header[:], data)
	ether.PutTag(f.Header[:], ether.VLAN(vlan))
	rest, regions := data[ether.HeaderLen:], m.Regions()
	for i := range pieces {
		part := rest[:len(rest)/(pieces-i)]
		rest = rest[len(part):]
		r := regions[rnd.IntN(len(regions))]
		at := r.Host + guestmem.Ptr(uint64(rnd.IntN(int(r.Size)-len(part)))&^0x3fff+uint64(i*1800)) // places do not meet
		if at+guestmem.Ptr(len(part)) > r.Host+guestmem.Ptr(r.Size) {
			at = r.Host + guestmem.Ptr(i*1800)
		}
		copy(at.Bytes(len(part)), part)
		f.Segs = append(f.Segs, guestmem.Segment{Addr: at, Len: uint32(len(part))})
	}
	return f
}

// lendOut sends one frame with a loan.
func (r *rig) lendOut(f uplink.TxFrame) *uplink.InFlight {
	r.Helper()
	var loan uplink.InFlight
	if n, err := r.Queue(0).Send([]uplink.TxFrame{f}, &loan); n != 1 || err != nil {
		r.Fatalf("sent %d, %v", n, err)
	}
	return &loan
}

// Frames of all lengths, in one piece and in several, lent and copied in turn, many times around the ring: all come out, in order, and every
// loan is returned.
func TestLend(t *testing.T) {
	r := newRig(t, Config{})
	m := guestMemory(t)
	r.must(r.MapDMA(3, m))
	rnd := rand.New(rand.NewPCG(3, 4))
	lent := uint64(0)
	for i := range 3000 {
		size, pieces := 60+rnd.IntN(1455), 1+rnd.IntN(maxPieces+2)
		data := eth(stranger, mac(3), 0, size, i)
		f := lentFrame(m, rnd, 3, 1003+i/7%2, data, pieces)
		loan := r.lendOut(f)
		if size-ether.HeaderLen >= inPlaceFrom && pieces <= maxPieces {
			lent++
			if loan.Ring == nil {
				t.Fatalf("frame %d of %d bytes in %d pieces was not lent", i, size, pieces)
			}
		} else if loan.Ring != nil {
			t.Fatalf("frame %d of %d bytes in %d pieces was lent", i, size, pieces)
		}
		if out := r.out(); !bytes.Equal(out, eth(stranger, mac(3), 1003+i/7%2, size+4, i)) {
			t.Fatalf("frame %d of %d bytes in %d pieces went out as %x", i, size, pieces, out)
		}
		if !loan.Done() {
			t.Fatalf("frame %d is out, but not returned", i)
		}
	}
	if got := counted(r.Counters()); got["lent"] != lent || got["wire_tx"] != 3000 {
		t.Errorf("%+v: want %d frames lent of 3000", got, lent)
	}
	r.must(r.UnmapDMA(3, true))
	if loan := r.lendOut(lentFrame(m, rnd, 3, 1003, eth(stranger, mac(3), 0, 1000, 1), 1)); loan.Ring != nil {
		t.Error("a frame was lent whose memory was taken back")
	}
	if out := r.out(); !bytes.Equal(out, eth(stranger, mac(3), 1003, 1004, 1)) {
		t.Errorf("then it went out as %x", out)
	}
}

// The NIC's own switch reads lent frames, too, from the ring of the sender's pool, and checks whose they are.
func TestLendToTheNICsSwitch(t *testing.T) {
	r := newRig(t, Config{Loopback: true, AntiSpoof: true, VLANStrip: true, Queues: 2})
	r.add(3, 4)
	m := guestMemory(t)
	r.must(r.MapDMA(3, m))
	rnd := rand.New(rand.NewPCG(3, 5))
	for i := range 600 {
		data := eth(mac(4), mac(3), 0, 500+i, i)
		loan := r.lendOut(lentFrame(m, rnd, 3, 1004, data, 1+i%3))
		got := r.receive()
		if len(got) != 1 || got[0].VLAN != 1004 || !bytes.Equal(got[0].data, data) || loan.Ring == nil || !loan.Done() {
			t.Fatalf("frame %d: %d came to pool 4, loan %+v", i, len(got), loan)
		}
	}
	r.lendOut(lentFrame(m, rnd, 3, 1004, eth(mac(4), stranger, 0, 500, 1), 1))
	if got, s := r.receive(), counted(r.Counters()); len(got) != 0 || s["spoofed"] != 1 || s["lent"] != 601 {
		t.Errorf("%d frames with another's address came, %+v; want one spoofed of 601 lent", len(got), s)
	}
}

// What is not in lent memory as a whole is copied, and so is what asks for a checksum, and what its sender has not lent.
func TestLendOnlyWhatIsLent(t *testing.T) {
	r := newRig(t, Config{})
	m, own := guestMemory(t), newMemory(t, 1<<16)
	rnd := rand.New(rand.NewPCG(5, 6))
	data := eth(stranger, mac(3), 0, 1000, 1)
	if loan := r.lendOut(lentFrame(m, rnd, 3, 1003, data, 1)); loan.Ring != nil {
		t.Error("a frame was lent before its memory was")
	}
	r.out()
	r.must(r.MapDMA(3, m))
	if err := r.MapDMA(3, m); err == nil {
		t.Error("a port lent its memory twice")
	}
	other := lentFrame(m, rnd, 4, 1004, data, 1)
	request := lentFrame(m, rnd, 3, 1003, data, 1)
	request.Offload = uplink.Offload{Flags: 1, CsumStart: 14, CsumOffset: 16}
	partly := lentFrame(m, rnd, 3, 1003, data, 2)
	partly.Segs[1] = own.frame(3, 1003, append(make([]byte, 14), data[14+len(data[14:])/2:]...), 1).Segs[0]
	for name, f := range map[string]uplink.TxFrame{"another port's": other, "with a request": request, "partly elsewhere": partly} {
		if loan := r.lendOut(f); loan.Ring != nil {
			t.Errorf("a frame %s was lent", name)
		}
		r.out()
	}
	if n, err := r.Queue(0).Send([]uplink.TxFrame{lentFrame(m, rnd, 3, 1003, data, 1)}, nil); n != 1 || err != nil || counted(r.Counters())["lent"] != 0 {
		t.Errorf("sent %d, %v without a loan: %+v", n, err, counted(r.Counters()))
	}
	r.out()
}

// The NIC reads the payload where it is, when it sends; what was checked, it has from us. Until then the loan is not returned.
func TestLentPayloadStaysWhereItIs(t *testing.T) {
	r := newRig(t, Config{})
	m := guestMemory(t)
	r.must(r.MapDMA(0, m))
	rnd := rand.New(rand.NewPCG(7, 8))
	r.model.SetFaults(nic82599.Faults{HungTransmit: true})
	f := lentFrame(m, rnd, 0, 1000, eth(stranger, mac(0), 0, 1000, 1), 1)
	loan := r.lendOut(f)
	if loan.Done() {
		t.Error("the loan is returned before the NIC has sent")
	}
	copy(f.Segs[0].Addr.Bytes(986), bytes.Repeat([]byte{0xee}, 986))
	copy((f.Segs[0].Addr - 14).Bytes(14), bytes.Repeat([]byte{0xdd}, 14))
	r.model.SetFaults(nic82599.Faults{})
	second := r.lendOut(lentFrame(m, rnd, 0, 1000, eth(stranger, mac(0), 0, 1000, 2), 1))
	want := append(eth(stranger, mac(0), 1000, 18, 0), bytes.Repeat([]byte{0xee}, 986)...)
	if out := r.out(); !bytes.Equal(out, want) {
		t.Errorf("the frame went out as %x, want what the guest has there now behind our header", out)
	}
	r.out()
	if !loan.Done() || !second.Done() {
		t.Error("the loans are not returned although the NIC has sent")
	}
}

// A guest that leaves while the NIC still has its frames: the NIC is reset, its memory is out of reach, and the others go on.
func TestUnmapUndrained(t *testing.T) {
	r := newRig(t, Config{})
	m, other := guestMemory(t), guestMemory(t)
	r.must(r.MapDMA(0, m))
	r.must(r.MapDMA(1, other))
	rnd := rand.New(rand.NewPCG(9, 10))
	data := eth(stranger, mac(0), 0, 1000, 1)
	r.model.SetFaults(nic82599.Faults{HungTransmit: true})
	loan := r.lendOut(lentFrame(m, rnd, 0, 1000, data, 2))
	others := r.lendOut(lentFrame(other, rnd, 1, 1001, data, 2))
	r.model.SetFaults(nic82599.Faults{})
	r.must(r.UnmapDMA(0, false))
	if !loan.Done() || !others.Done() {
		t.Error("after a reset the NIC holds nothing, but a loan is not returned")
	}
	if s := counted(r.Counters()); s["discarded"] != 2 || r.lost.resets.Load() != 1 {
		t.Errorf("%v after %d resets: want two frames counted as lost, and one reset", s, r.lost.resets.Load())
	}
	r.until("link up", func() bool { l, _ := r.Link(); return l.Carrier })
	for i := range 600 {
		loan := r.lendOut(lentFrame(other, rnd, 1, 1001, data, 1))
		if out := r.out(); !bytes.Equal(out, eth(stranger, mac(0), 1001, 1004, 1)) || !loan.Done() {
			t.Fatalf("frame %d of the other guest went out as %x", i, out)
		}
	}
	r.must(r.MapDMA(0, m)) // it may come again
	r.lendOut(lentFrame(m, rnd, 0, 1000, data, 1))
	r.out()
}

// Guests do not wait for their buffers as long as a link is away.
func TestLinkLossReturnsLoans(t *testing.T) {
	r := newRig(t, Config{Watch: often})
	m := guestMemory(t)
	r.must(r.MapDMA(0, m))
	rnd := rand.New(rand.NewPCG(11, 12))
	r.until("link up", func() bool { l, _ := r.Link(); return l.Carrier })
	f := lentFrame(m, rnd, 0, 1000, eth(stranger, mac(0), 0, 1000, 1), 1)
	r.mu.Lock() // the watchdog must not see a hang first
	r.model.SetFaults(nic82599.Faults{HungTransmit: true, NoLink: true})
	loan := r.lendOut(f)
	r.mu.Unlock()
	r.until("the buffer is returned", loan.Done)
	if r.lost.resets.Load() != 1 {
		t.Errorf("%d resets, want one", r.lost.resets.Load())
	}
	r.model.SetFaults(nic82599.Faults{})
	r.until("the link is back", func() bool { return !r.down.Load() })
	r.lendOut(f)
	r.out()
}

// What was lent and returned long ago, or never, is nothing that a guest waits for, wherever the ring's positions are by now.
func TestLinkLossLongAfterALoan(t *testing.T) {
	for _, lent := range []bool{false, true} {
		r := newRig(t, Config{})
		if lent {
			m := guestMemory(t)
			r.must(r.MapDMA(0, m))
			rnd := rand.New(rand.NewPCG(13, 14))
			for range 3 {
				r.lendOut(lentFrame(m, rnd, 0, 1000, eth(stranger, mac(0), 0, 1000, 1), 1))
				r.out()
			}
		}
		tx := r.queues[0].tx
		tx.own()
		tx.reclaim()
		if tx.clean != tx.tail {
			t.Fatalf("%d descriptors are not reported", tx.tail-tx.clean)
		}
		tx.tail += 1<<31 + 5*txSize
		tx.clean, tx.reported = tx.tail, tx.tail
		tx.sent.Store(tx.tail)
		tx.done.Store(tx.tail)
		tx.disown()
		r.model.SetFaults(nic82599.Faults{NoLink: true})
		for range 3 {
			r.look(map[*txRing]*progress{})
		}
		if n := r.lost.resets.Load(); n != 0 {
			t.Errorf("%d resets in three looks although nothing is lent (lent before: %v)", n, lent)
		}
	}
}

// Without an IOMMU nothing is lent, and the error says why.
func TestLendWithoutIOMMU(t *testing.T) {
	p := unmapped{newPlain()}
	n, err := Open(p, Config{Queues: 1, Layout: mustLayout(t, ""), VLANBase: base})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.MapDMA(0, guestMemory(t)); !errors.Is(err, pci.ErrUnsupported) {
		t.Errorf("MapDMA: %v, want that the device cannot", err)
	}
}

// slowly maps and allocates only when it is let.
type slowly struct {
	*plain
	asked, let chan string
	allocating *atomic.Bool // wait there, too
}

func (s slowly) wait(what string) {
	s.asked <- what
	<-s.let
}

func (s slowly) MapRegion(r pci.Region) (uint64, error) {
	s.wait("map")
	return s.plain.MapRegion(r)
}

func (s slowly) UnmapRegion(iova, size uint64) error {
	s.wait("unmap")
	return s.plain.UnmapRegion(iova, size)
}

func (s slowly) AllocDMA(size int) (pci.DMA, error) {
	if s.allocating.Load() {
		s.wait("allocate")
	}
	return s.plain.AllocDMA(size)
}

// Nobody waits for the kernel to pin, or to let go, what a guest lends: neither other guests' filters nor the watchdog, nor who asks for
// counters and the link; and nobody but the guest that needs it for the memory of its pool.
func TestLendingLargeMemory(t *testing.T) {
	d := slowly{newPlain(), make(chan string), make(chan string), new(atomic.Bool)}
	n, err := Open(d, Config{Queues: 1, Layout: mustLayout(t, ""), VLANBase: base, Watch: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.AddFilter(2, mac(2), base+2); err != nil {
		t.Fatal(err)
	}
	d.allocating.Store(true)
	m := guestMemory(t)
	for _, step := range []struct {
		what, call string
		times      int
		filters    bool // are not held up
		do         func() error
	}{
		{"memory is lent", "map", len(m.Regions()), true, func() error { return n.MapDMA(0, m) }},
		{"memory is taken back", "unmap", len(m.Regions()), true, func() error { return n.UnmapDMA(0, true) }},
		{"a pool is made", "allocate", 2, false, func() error { return n.AddFilter(3, mac(3), base+3) }},
	} {
		done := make(chan error, 1)
		go func() { done <- step.do() }()
		for i := range step.times {
			if got := <-d.asked; got != step.call {
				t.Fatalf("%s: the device is to %s, want to %s", step.what, got, step.call)
			}
			if i == 0 {
				others := make(chan bool)
				go func() {
					n.look(map[*txRing]*progress{})
					n.Counters()
					_, _ = n.Link()
					if step.filters {
						_ = n.AddFilter(2, mac(102), base+2)
						_ = n.RemoveFilter(2, mac(102), base+2)
					}
					close(others)
				}()
				select {
				case <-others:
				case <-time.After(limit):
					t.Fatalf("while %s, others wait", step.what)
				}
			}
			d.let <- ""
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

type unmapped struct{ *plain }

func (unmapped) MapRegion(pci.Region) (uint64, error) { return 0, pci.ErrUnsupported }
