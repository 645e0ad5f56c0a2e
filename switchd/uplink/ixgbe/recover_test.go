package ixgbe

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
	"vhostkit/test/nic82599"
)

// faulty is a device between the driver and the model: without a function-level reset, or gone from the bus.
type faulty struct {
	pci.Device
	gone, noReset atomic.Bool
}

func (f *faulty) Reset() error {
	if f.noReset.Load() {
		return pci.ErrUnsupported
	}
	return f.Device.Reset()
}

func (f *faulty) BAR(i int) (pci.Registers, error) {
	r, err := f.Device.BAR(i)
	return &faultyRegisters{r, f}, err
}

type faultyRegisters struct {
	pci.Registers
	f *faulty
}

func (r *faultyRegisters) Read32(offset uint32) uint32 {
	if r.f.gone.Load() {
		return allOnes
	}
	return r.Registers.Read32(offset)
}

func (r *faultyRegisters) Write32(offset, value uint32) {
	if !r.f.gone.Load() {
		r.Registers.Write32(offset, value)
	}
}

func newFaultyRig(t *testing.T, c Config) (*rig, *faulty) {
	t.Helper()
	f := &faulty{}
	return newRigOn(t, c, nic82599.Config{}, func(d pci.Device) pci.Device { f.Device = d; return f }), f
}

// looks lets the watchdog look so often.
func (r *rig) looks(times int) {
	seen := map[*txRing]*progress{}
	for range times {
		r.look(seen)
	}
}

func (r *rig) master() bool {
	r.Helper()
	v, err := r.model.ReadConfig(pciCommand, 2)
	r.must(err)
	return v&pciMaster != 0
}

// As long as a NIC does not come back it is kept from memory, and nobody waits for it: what it was lent is returned, what is sent is counted as
// lost, each frame once, and nothing more is lent. When it does come back all goes on.
func TestResetThatFails(t *testing.T) {
	for _, loop := range []bool{false, true} {
		r, f := newFaultyRig(t, Config{VLANStrip: true, Loopback: loop})
		r.add(0, 1)
		m := guestMemory(t)
		r.must(r.MapDMA(0, m))
		rnd := rand.New(rand.NewPCG(15, 16))
		r.must(r.AddFilter(3, mac(3), base+3))
		f.noReset.Store(true)
		r.model.SetFaults(nic82599.Faults{HungTransmit: true, HungReset: true})
		data := eth(stranger, mac(0), 0, 1000, 1)
		loan := r.lendOut(lentFrame(m, rnd, 0, base, data, 2))
		r.model.Arrive(eth(mac(1), stranger, base+1, 100, 1)) // nobody takes it
		r.looks(hungLooks)
		if r.state != isolated || r.master() || !r.down.Load() {
			t.Fatalf("loopback %v: a reset that fails: state %v, bus master %v, down %v", loop, r.state, r.master(), r.down.Load())
		}
		if !loan.Done() {
			t.Error("a loan is not returned")
		}
		r.looks(1)
		if s := counted(r.Counters()); s["discarded"] != 2 || r.lost.resets.Load() != 2 {
			t.Errorf("%v after %d attempts: want one frame lost each way", s, r.lost.resets.Load())
		}
		if l, err := r.Link(); err != nil || l.Carrier {
			t.Errorf("link %+v, %v", l, err)
		}
		var second uplink.InFlight
		if n, err := r.Queue(0).Send([]uplink.TxFrame{lentFrame(m, rnd, 0, base, data, 2)}, &second); n != 0 || err != nil || second.Ring != nil {
			t.Errorf("sent %d, %v, loan %+v", n, err, second)
		}
		r.down.Store(false) // a worker that looked just before
		if n, err := r.Queue(0).Send([]uplink.TxFrame{lentFrame(m, rnd, 0, base, data, 2)}, &second); n != 0 || err != nil || second.Ring != nil {
			t.Errorf("sent %d, %v, loan %+v", n, err, second)
		}
		r.down.Store(true)
		if s := counted(r.Counters()); s["down"] != 2 {
			t.Errorf("%+v: want two frames counted as lost", s)
		}
		if err := r.AddFilter(2, mac(2), base+2); err == nil || errors.Is(err, uplink.ErrNoPool) {
			t.Errorf("a filter meanwhile: %v", err)
		}
		r.must(r.RemoveFilter(3, mac(3), base+3))
		r.must(r.UnmapDMA(0, true))
		r.model.SetFaults(nic82599.Faults{})
		r.looks(1)
		if r.state != running || !r.master() || r.down.Load() || !r.carrier.Load() {
			t.Fatalf("it does not come back: state %v, bus master %v, down %v", r.state, r.master(), r.down.Load())
		}
		r.add(2)
		r.must(r.MapDMA(0, m))
		for range 3 {
			loan := r.lendOut(lentFrame(m, rnd, 0, base, data, 2))
			if out := r.out(); !bytes.Equal(out, eth(stranger, mac(0), base, 1004, 1)) || !loan.Done() {
				t.Fatalf("then this goes out: %x", out)
			}
			for _, p := range []int{0, 1, 2, 3} {
				r.model.Arrive(eth(mac(p), stranger, base+p, 100, p))
			}
			if got := r.receive(); len(got) != 3 {
				t.Fatalf("%d frames come in, want 3", len(got))
			}
		}
	}
}

// What does not stop, or does not come up, is what resets are for.
func TestResetHelps(t *testing.T) {
	for name, faults := range map[string]nic82599.Faults{
		"a receive queue that cannot be disabled": {HungTransmit: true, HungReceive: true}, "requests that never end": {HungTransmit: true, GIOStuck: true},
		"a reset that has no effect": {HungTransmit: true, HungReset: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{VLANStrip: true})
			r.add(0)
			m := newMemory(t, 1<<16)
			f := m.frame(0, base, eth(stranger, mac(0), 0, 100, 0), 1)
			r.model.SetFaults(faults)
			r.send(f)
			resets := r.model.Resets()
			r.mu.Lock()
			r.recover("the test wants it")
			r.mu.Unlock()
			if r.state != running || r.model.Resets() == resets {
				t.Fatalf("the NIC does not come back after %d resets", r.model.Resets()-resets)
			}
			faults.HungTransmit = false
			r.model.SetFaults(faults)
			r.send(f)
			r.out()
			r.model.Arrive(eth(mac(0), stranger, base, 100, 0))
			if got := r.receive(); len(got) != 1 {
				t.Errorf("%d frames came, want 1", len(got))
			}
			r.model.SetFaults(nic82599.Faults{})
		})
	}
	t.Run("at the start", func(t *testing.T) {
		r := newRigOn(t, Config{}, nic82599.Config{Faults: nic82599.Faults{HungReset: true, GIOStuck: true}}, func(d pci.Device) pci.Device { return d })
		r.add(0)
		r.model.SetFaults(nic82599.Faults{})
	})
}

// A card that has gone is told once, in words that help; it counts nothing, and what it was lent is returned. One that answers again is set up.
func TestCardThatHasGone(t *testing.T) {
	var log bytes.Buffer
	r, f := newFaultyRig(t, Config{VLANStrip: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	r.add(0)
	m := guestMemory(t)
	r.must(r.MapDMA(0, m))
	rnd := rand.New(rand.NewPCG(17, 18))
	data := eth(stranger, mac(0), 0, 1000, 1)
	r.lendOut(lentFrame(m, rnd, 0, base, data, 1))
	r.out()
	r.model.SetFaults(nic82599.Faults{HungTransmit: true})
	loan := r.lendOut(lentFrame(m, rnd, 0, base, data, 1))
	before := counted(r.Counters())
	log.Reset()
	f.gone.Store(true)
	if s := counted(r.Counters()); !maps.Equal(s, before) {
		t.Errorf("what is not there counts: %+v", s)
	}
	r.looks(5)
	if _, err := r.Link(); !errors.Is(err, uplink.ErrNoDevice) {
		t.Errorf("the link's state: %v", err)
	}
	before["discarded"] = 1
	if s := counted(r.Counters()); !maps.Equal(s, before) {
		t.Errorf("it counts %+v, want %+v", s, before)
	}
	if text := log.String(); strings.Count(text, "disappeared from the PCI bus") != 1 || strings.Count(text, "\n") != 1 || !strings.Contains(text, "restart switchd") {
		t.Errorf("the log says\n%s", text)
	}
	if r.state != gone {
		t.Errorf("the NIC is %v, want gone", r.state)
	}
	if !loan.Done() || !r.down.Load() || r.carrier.Load() {
		t.Errorf("the loan is returned: %v; down %v, carrier %v", loan.Done(), r.down.Load(), r.carrier.Load())
	}
	f.gone.Store(false)
	r.model.SetFaults(nic82599.Faults{})
	r.looks(1)
	if l, err := r.Link(); err != nil || !l.Carrier {
		t.Errorf("when it answers again: %+v, %v", l, err)
	}
	r.lendOut(lentFrame(m, rnd, 0, base, data, 1))
	r.out()
}

// Whoever asks for the link may be the first to see that the card has gone.
func TestGoneWhenAsked(t *testing.T) {
	r, f := newFaultyRig(t, Config{})
	f.gone.Store(true)
	if _, err := r.Link(); !errors.Is(err, uplink.ErrNoDevice) || r.carrier.Load() {
		t.Errorf("the link's state: %v, carrier %v", err, r.carrier.Load())
	}
	f.gone.Store(false)
	r.looks(1)
	r.add(0)
}

// A reset loses neither what the NIC has counted before nor sight of what was in its rings.
func TestResetCounts(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true})
	r.add(0, 1)
	m, own := guestMemory(t), newMemory(t, 1<<16)
	r.must(r.MapDMA(0, m))
	for range 3 {
		r.send(own.frame(1, base+1, eth(stranger, mac(1), 0, 100, 0), 1))
		r.out()
	}
	for i := range 40 { // nobody takes them
		r.model.Arrive(eth(mac(i%2), stranger, base+i%2, 100, i))
	}
	r.must(r.UnmapDMA(0, false))
	want := counts{"wire_rx": 40, "wire_tx": 3, "discarded": 40, "resets": 1}
	if s := counted(r.Counters()); !maps.Equal(s, want) {
		t.Errorf("%+v, want %+v", s, want)
	}
	for i := range 10 {
		r.model.Arrive(eth(mac(1), stranger, base+1, 100, i))
	}
	r.must(r.RemoveFilter(1, mac(1), base+1))
	r.add(1)
	want["wire_rx"], want["discarded"] = want["wire_rx"]+10, want["discarded"]+10
	if s := counted(r.Counters()); !maps.Equal(s, want) {
		t.Errorf("when a port has left whose frames nobody took: %+v, want %+v", s, want)
	}
}

// With the NIC's own switch a ring that hangs is noticed without a link, too.
func TestHungQueueWithoutALink(t *testing.T) {
	for _, loop := range []bool{true, false} {
		r := newRig(t, Config{VLANStrip: true, Loopback: loop})
		r.add(0, 1)
		m := newMemory(t, 1<<16)
		r.model.SetFaults(nic82599.Faults{HungTransmit: true})
		r.send(m.frame(0, base+1, eth(mac(1), mac(0), 0, 100, 0), 1))
		r.model.SetFaults(nic82599.Faults{HungTransmit: true, NoLink: true})
		r.looks(hungLooks + 1)
		want := map[bool]uint64{true: 1, false: 0}[loop]
		if got := r.lost.resets.Load(); got != want {
			t.Errorf("loopback %v: %d resets, want %d", loop, got, want)
		}
		r.model.SetFaults(nic82599.Faults{NoLink: true})
		if !loop {
			continue
		}
		r.send(m.frame(0, base+1, eth(mac(1), mac(0), 0, 100, 0), 1))
		if got := r.receive(); len(got) != 1 {
			t.Errorf("%d frames came to the other guest after the reset, want 1", len(got))
		}
	}
}
