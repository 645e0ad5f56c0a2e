package ixgbe

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

func TestPoolsAndThe65thPort(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true, Queues: 3})
	for p := range 64 {
		r.must(r.AddFilter(uplink.Pool(p), mac(p), ether.VLAN(base+p)))
	}
	r.receive()
	err := r.AddFilter(64, mac(64), base+64)
	if !errors.Is(err, uplink.ErrNoPool) {
		t.Fatalf("the 65th port gives %v, want ErrNoPool", err)
	}
	t.Log(err)
	r.registers(map[string]uint32{"VT_CTL": 0x40000001, "MPSAR_LO[64]": 1, "MPSAR_HI[64]": 0})
	for p := range 65 {
		r.model.Arrive(eth(mac(p), stranger, base+p, 100, p))
	}
	r.model.Arrive(eth(broadcast, stranger, base+64, 100, 64))
	got := r.receive()
	if len(got) != 66 {
		t.Fatalf("%d frames came, want 66", len(got))
	}
	for _, g := range got {
		port := int(g.VLAN) - base
		if want := port % 3; port < 64 && g.queue != want || port == 64 && g.queue != 0 {
			t.Errorf("the frame for port %d came in queue %d", port, g.queue)
		}
	}
	for p, c := range r.model.PoolCounters() {
		if want := map[bool]uint64{true: 3, false: 1}[p == 0]; c.Received != want {
			t.Errorf("pool %d received %d frames, want %d", p, c.Received, want)
		}
	}
	r.must(r.RemoveFilter(64, mac(64), base+64))
	r.must(r.RemoveFilter(64, mac(64), base+64))                                          // it is not there any more
	r.registers(map[string]uint32{"RAH[64]": 0, "MPSAR_LO[64]": 0, "VT_CTL": 0x60000001}) // nobody depends on the default pool any more
}

// More addresses than the NIC has filters: the switch sorts out what the NIC cannot.
func TestMoreAddressesThanFilters(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true, AntiSpoof: true})
	for i := range regs.RARs {
		r.must(r.AddFilter(5, mac(i), base+5))
	}
	r.registers(map[string]uint32{"PFVFSPOOF[0]": 0x2020})
	last := mac(regs.RARs)
	if err := r.AddFilter(5, last, base+5); !errors.Is(err, uplink.ErrNoPool) {
		t.Fatalf("one address more gives %v, want ErrNoPool", err)
	}
	r.registers(map[string]uint32{"PFVFSPOOF[0]": 0x2000, "FCTRL": regs.FCTRL_BAM | regs.FCTRL_MPE | regs.FCTRL_UPE})
	r.receive()
	for _, to := range []ether.MAC{mac(0), mac(127), last} {
		r.model.Arrive(eth(to, stranger, base+5, 100, 0))
		if got := r.receive(); len(got) != 1 || got[0].VLAN != base+5 {
			t.Errorf("%d frames for %s came, want 1", len(got), to)
		}
	}
	r.must(r.RemoveFilter(5, last, base+5))
	closed := map[string]uint32{"FCTRL": regs.FCTRL_BAM | regs.FCTRL_MPE, "PFVFSPOOF[0]": 0x2020, "VT_CTL": 0x60000001}
	r.registers(closed)
	// A place that becomes free is taken by an address that had none.
	if err := r.AddFilter(5, last, base+5); !errors.Is(err, uplink.ErrNoPool) {
		t.Fatalf("one address more gives %v, want ErrNoPool", err)
	}
	r.must(r.RemoveFilter(5, mac(7), base+5))
	r.registers(closed)
	r.receive()
	r.model.Arrive(eth(last, stranger, base+5, 100, 0))
	if got := r.receive(); len(got) != 1 {
		t.Errorf("%d frames for %s came, want 1", len(got), last)
	}
}

// Whoever asks again for a filter hears how things are by now, and changes nothing.
func TestFiltersAreAskedForAgain(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true})
	again := func(what string, port int, m ether.MAC, want error) {
		t.Helper()
		for range 2 {
			if err := r.AddFilter(uplink.Pool(port), m, ether.VLAN(base+port)); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
	}
	again("the first", 5, mac(0), nil)
	again("the 65th port", 64, mac(64), uplink.ErrNoPool)
	for i := 1; i < regs.RARs-1; i++ {
		r.must(r.AddFilter(5, mac(i), base+5))
	}
	again("one too many", 5, mac(200), uplink.ErrNoPool)
	r.must(r.RemoveFilter(5, mac(3), base+5))
	again("it has the place that became free", 5, mac(200), nil)
	for i := range regs.RARs - 1 {
		r.must(r.RemoveFilter(5, mac(i), base+5))
	}
	r.must(r.RemoveFilter(5, mac(200), base+5))
	r.must(r.RemoveFilter(64, mac(64), base+64))
	if p := &r.pools[5]; p.filters != 0 || p.active || r.pools[0].active || r.fallback {
		t.Errorf("when all have gone, %d filters are left, pools 5 and 0 are active: %v and %v, the default pool is in use: %v", p.filters, p.active,
			r.pools[0].active, r.fallback)
	}
	r.registers(map[string]uint32{"RAH[0]": 0, "RAH[3]": 0, "VMOLR[5]": 0, "VT_CTL": 0x60000001})
}

// When a guest leaves, nothing of it stays: no filter, and no frame for the next one.
func TestPoolIsDrained(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true})
	r.add(0, 1)
	r.model.Arrive(eth(mac(1), stranger, base+1, 100, 0))
	r.model.Arrive(eth(mac(0), stranger, base, 100, 0))
	r.must(r.RemoveFilter(1, mac(1), base+1)) // nobody polls
	r.registers(map[string]uint32{"RAH[1]": 0, "MPSAR_LO[1]": 0, "VMOLR[1]": 0})
	r.model.Arrive(eth(mac(1), stranger, base+1, 100, 0))
	if got := r.receive(); len(got) != 1 || got[0].VLAN != base {
		t.Errorf("%d frames came, want only port 0's", len(got))
	}
	r.must(r.AddFilter(1, mac(101), base+1))
	if got := r.receive(); len(got) != 0 {
		t.Errorf("the next guest got %d frames of the last", len(got))
	}
	r.model.Arrive(eth(mac(101), stranger, base+1, 100, 0))
	if got := r.receive(); len(got) != 1 {
		t.Errorf("the next guest got %d frames of its own, want 1", len(got))
	}
}

// With a worker that polls, removal takes as long as its next round.
func TestDrainWithAWorker(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true})
	r.add(0, 1)
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		frames, n := make([]uplink.RxFrame, 32), 0
		for {
			select {
			case <-stop:
				stopped <- n
				return
			default:
				got, _ := r.Queue(0).Receive(frames)
				n += got
			}
		}
	}()
	for i := range 50 {
		r.model.Arrive(eth(mac(1), stranger, base+1, 100, i))
		r.must(r.RemoveFilter(1, mac(1), base+1))
		if r.pools[1].rx[0].drain.Load() {
			t.Error("the ring was not drained")
		}
		r.must(r.AddFilter(1, mac(1), base+1))
	}
	close(stop)
	<-stopped
}

// --vm2vm 2: the NIC moves frames from pool to pool, when they carry the destination's VLAN.
func TestLoopback(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true, Loopback: true, Queues: 2})
	r.add(0, 1, 2)
	m := newMemory(t, 1<<16)
	for i, c := range []struct {
		name     string
		from, to int
		vlan     int
		loops    bool
	}{
		{"to the destination's VLAN", 0, 1, 1001, true}, {"and back", 1, 0, 1000, true}, {"another worker's", 2, 1, 1001, true},
		{"to the source's VLAN", 0, 1, 1000, false}, {"to nobody's", 0, 1, 99, false},
	} {
		data := eth(mac(c.to), mac(c.from), 0, 100, i)
		r.send(m.frame(c.from, c.vlan, data, 2))
		got := r.receive()
		if !c.loops {
			if out := r.out(); len(got) != 0 || !bytes.Equal(out, eth(mac(c.to), mac(c.from), c.vlan, 104, i)) {
				t.Errorf("%s: %d frames came back, %x went out", c.name, len(got), out)
			}
			continue
		}
		r.silent()
		if len(got) != 1 || int(got[0].VLAN) != c.vlan || !bytes.Equal(got[0].data, data) || got[0].queue != c.to%2 {
			t.Errorf("%s: %d frames came back: %+v", c.name, len(got), got)
		}
	}
	// A broadcast of a guest goes out, and not back to itself.
	r.send(m.frame(1, 1001, eth(broadcast, mac(1), 0, 100, 0), 1))
	r.out()
	if got := r.receive(); len(got) != 0 {
		t.Errorf("the guest heard its own broadcast")
	}
	if c := r.model.PoolCounters(); c[0].Looped != 1 || c[1].Looped != 2 || c[0].Sent != 3 || c[1].Sent != 2 || c[2].Sent != 1 {
		t.Errorf("pools 0 to 2 counted %+v", c[:3])
	}
}

func TestAntiSpoof(t *testing.T) {
	for _, loop := range []bool{false, true} {
		t.Run(fmt.Sprintf("loopback=%v", loop), func(t *testing.T) {
			r := newRig(t, Config{AntiSpoof: true, Loopback: loop, Queues: 2})
			r.add(0, 9)
			m := newMemory(t, 1<<16)
			r.send(m.frame(9, 1009, eth(stranger, mac(9), 0, 100, 0), 1))
			r.out()
			r.send(m.frame(9, 1009, eth(stranger, mac(0), 0, 100, 0), 1))
			r.silent()
			want := uint64(1)
			r.send(m.frame(9, 1000, eth(stranger, mac(9), 0, 100, 0), 1))
			if loop { // frames carry the destination's VLAN there
				r.out()
			} else {
				r.silent()
				want = 2
			}
			if s := counted(r.Counters()); s["spoofed"] != want || s["wire_tx"] != 3-want {
				t.Errorf("%+v: want %d frames with another's address or VLAN", s, want)
			}
			r.must(r.RemoveFilter(9, mac(9), 1009))
			r.registers(map[string]uint32{"PFVFSPOOF[1]": 0})
		})
	}
}

// Anti-spoofing never holds up a frame that the switch has let through: neither of a port without a pool, nor the first ones of a port, nor the
// first ones with a new address.
func TestAntiSpoofLetsNewcomersThrough(t *testing.T) {
	r := newRig(t, Config{AntiSpoof: true, VLANStrip: true, Queues: 2})
	m := newMemory(t, 1<<16)
	r.add(0, 1)
	if err := r.AddFilter(64, mac(64), base+64); !errors.Is(err, uplink.ErrNoPool) {
		t.Fatalf("the 65th port: %v", err)
	}
	passes := func(what string, port int, from ether.MAC) {
		t.Helper()
		data := eth(stranger, from, 0, 100, port)
		for q := range 2 {
			if n, err := r.Queue(q).Send([]uplink.TxFrame{m.frame(port, base+port, data, 1)}, nil); n != 1 || err != nil {
				t.Fatalf("sent %d frames: %v", n, err)
			}
			if s := counted(r.Counters()); s["spoofed"] != 0 {
				t.Errorf("queue %d: %s does not leave: %+v", q, what, s)
				return
			}
			r.out()
		}
	}
	passes("a frame of port 64", 64, mac(64))
	passes("the first frame of port 5, before it has a pool", 5, mac(5))
	r.add(5)
	passes("its next frame", 5, mac(5))
	on := map[string]uint32{"PFVFSPOOF[0]": 0x2323}
	r.registers(on)
	r.Expect(5)
	r.Expect(64)
	passes("a new address of port 5, before its filter", 5, mac(105))
	passes("the other one's next frame", 5, mac(5))
	r.must(r.AddFilter(5, mac(105), base+5))
	r.registers(map[string]uint32{"PFVFSPOOF[0]": 0x2303}) // another one may be on its way
	seen := map[*txRing]*progress{}
	r.look(seen)
	r.Expect(5)
	r.look(seen)
	passes("one more", 5, mac(205))
	r.look(seen)
	r.registers(on)
	passes("an address that has its filter now", 5, mac(105))
	r.send(m.frame(5, base+5, eth(stranger, mac(205), 0, 100, 0), 1))
	r.silent()
	if s := counted(r.Counters()); s["spoofed"] != 1 {
		t.Errorf("%+v: want the address spoofed that was never added", s)
	}
	r.Expect(5) // and a reset keeps what is expected
	r.mu.Lock()
	r.recover("the test wants it")
	r.mu.Unlock()
	r.registers(map[string]uint32{"PFVFSPOOF[0]": 0x2303})
	r.look(seen)
	r.look(seen)
	r.registers(on)
}

// The workers' queues lie in as few pools as can be, the last ones. The NIC checks all others.
func TestWorkersQueues(t *testing.T) {
	for name, want := range map[string]struct{ shared, first int }{"64x2": {16, 127}, "32x4": {6, 127}, "dcb16x8": {3, 127}, "dcb32x4": {6, 127}} {
		t.Run(name, func(t *testing.T) {
			l := mustLayout(t, name)
			used, pools := map[int]bool{}, map[int]bool{}
			for i := range MaxQueues {
				q := l.worker(i)
				if used[q] || q%l.Stride == 0 || q < 0 || q >= regs.TXQueues {
					t.Errorf("worker %d has queue %d, which is not its own", i, q)
				}
				used[q], pools[q/l.Stride] = true, true
			}
			if len(pools) != want.shared || l.worker(0) != want.first {
				t.Errorf("worker 0 has queue %d, and all have %d pools; want %+v", l.worker(0), len(pools), want)
			}
			r := newRig(t, Config{Layout: l, Queues: MaxQueues, AntiSpoof: true})
			for _, p := range []int{0, l.Pools - want.shared - 1, l.Pools - want.shared, l.Pools - 1} {
				if p < 0 {
					continue
				}
				r.add(p)
				if v := r.model.Snapshot()[regs.Name(regs.PFVFSPOOF(p/8))] >> (p % 8) & 0x101; (v == 0x101) == pools[p] || v != 0 && v != 0x101 {
					t.Errorf("pool %d is checked: %#x; it has a worker's queue: %v", p, v, pools[p])
				}
			}
		})
	}
}
