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
		r.must(r.AddFilter(p, mac(p), uint16(base+p)))
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
			if s := r.Stats(); s.Spoofed != want || s.WireTx != 3-want {
				t.Errorf("%+v: want %d frames with another's address or VLAN", s, want)
			}
			r.must(r.RemoveFilter(9, mac(9), 1009))
			r.registers(map[string]uint32{"PFVFSPOOF[1]": 0})
		})
	}
}
