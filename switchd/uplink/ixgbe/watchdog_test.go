package ixgbe

import (
	"bytes"
	"maps"
	"sync"
	"testing"
	"time"

	"vhostkit/switchd/uplink"
	"vhostkit/test/nic82599"
)

const often = 2 * time.Millisecond // between the watchdog's looks

func TestLinkLoss(t *testing.T) {
	r := newRig(t, Config{Watch: often, VLANStrip: true})
	r.add(0)
	m := newMemory(t, 1<<16)
	f := m.frame(0, 1000, eth(stranger, mac(0), 0, 100, 0), 1)
	r.until("link up", func() bool { l, _ := r.Link(); return l.Carrier })
	r.model.SetFaults(nic82599.Faults{NoLink: true})
	r.until("link down", func() bool { return r.down.Load() })
	if l, err := r.Link(); err != nil || l.Carrier || !l.Up {
		t.Errorf("link %+v, %v: want no carrier", l, err)
	}
	if n, err := r.Queue(0).Send([]uplink.TxFrame{f, f}, nil); n != 0 || err != nil || counted(r.Counters())["down"] != 2 {
		t.Errorf("without a link %d frames went, error %v, %+v; want 2 counted as lost", n, err, counted(r.Counters()))
	}
	tries := func() time.Time { r.mu.Lock(); defer r.mu.Unlock(); return r.linkTry }
	first := tries()
	r.until("the link is started again", func() bool { return tries().After(first) })
	r.model.SetFaults(nic82599.Faults{})
	r.until("link up again", func() bool { return !r.down.Load() })
	r.send(f)
	r.out()
	r.model.Arrive(eth(mac(0), stranger, 1000, 100, 0))
	if got := r.receive(); len(got) != 1 {
		t.Errorf("%d frames came after the link did, want 1", len(got))
	}
	if r.lost.resets.Load() != 0 {
		t.Error("the loss of a link was taken for a hang")
	}
}

// A transmit queue that hangs is noticed, the NIC is set up again with all that it knew, and traffic goes on.
func TestHungQueue(t *testing.T) {
	r := newRig(t, Config{Watch: often, VLANStrip: true, Loopback: true})
	r.add(0, 7)
	if err := r.AddFilter(70, mac(70), base+70); err == nil {
		t.Fatal("port 70 has a pool")
	}
	m := newMemory(t, 1<<16)
	data := eth(stranger, mac(7), 0, 100, 0)
	before := r.model.Snapshot()
	r.model.SetFaults(nic82599.Faults{HungTransmit: true})
	r.send(m.frame(7, 1007, data, 1), m.frame(7, 1007, data, 1))
	r.until("the hang is noticed", func() bool { return r.lost.resets.Load() > 0 })
	r.model.SetFaults(nic82599.Faults{})
	r.until("the NIC is back", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.state == running && r.carrier.Load() })
	if lost := counted(r.Counters())["discarded"]; lost != 2 {
		t.Errorf("%d frames were counted as lost, want the two that hung", lost)
	}
	after := r.model.Snapshot()
	for _, name := range []string{"MRQC", "VT_CTL", "PFDTXGSWC", "RAL[0]", "RAH[1]", "RAH[2]", "MPSAR_LO[1]", "VLVF[7]", "VLVFB[14]", "VMOLR[7]",
		"RXDCTL[0]", "RXDCTL[14]", "TXDCTL[14]", "FCTRL", "MAXFRS"} {
		if before[name] != after[name] {
			t.Errorf("register %s was %#x and is %#x", name, before[name], after[name])
		}
	}
	for i := range 100 {
		r.send(m.frame(7, 1007, data, 1))
		if out := r.out(); !bytes.Equal(out, eth(stranger, mac(7), 1007, 104, 0)) {
			t.Fatalf("frame %d after the reset went out as %x", i, out)
		}
		m.used = 0
		for _, p := range []int{0, 7, 70} {
			r.model.Arrive(eth(mac(p), stranger, base+p, 100, i))
		}
		if got := r.receive(); len(got) != 3 {
			t.Fatalf("%d of 3 frames came after the reset", len(got))
		}
	}
}

// The watchdog resets the NIC under workers that receive and send.
func TestResetUnderTraffic(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true, Queues: 2, Loopback: true})
	r.add(0, 1)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for i := range 2 {
		m := newMemory(t, 1<<12)
		f := m.frame(i, 1000+i, eth(stranger, mac(i), 0, 100, 0), 1)
		group.Add(1)
		go func() {
			defer group.Done()
			frames := make([]uplink.RxFrame, 32)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := r.Queue(i).Send([]uplink.TxFrame{f, f}, nil); err != nil {
					t.Error(err)
				}
				if _, err := r.Queue(i).Receive(frames); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	for i := range 5 {
		r.model.Arrive(eth(mac(i%2), stranger, base+i%2, 100, 0))
		r.mu.Lock()
		r.recover("the test wants it")
		r.mu.Unlock()
	}
	close(stop)
	group.Wait()
	for len(r.wire.Out) > 0 {
		<-r.wire.Out
	}
	m := newMemory(t, 1<<12)
	r.send(m.frame(0, 1000, eth(stranger, mac(0), 0, 100, 0), 1))
	r.out()
}

// What the NIC counts is added up, although it forgets it when it is read.
func TestCounters(t *testing.T) {
	r := newRig(t, Config{Watch: often, VLANStrip: true})
	r.add(0)
	m := newMemory(t, 1<<16)
	for i := range 300 {
		r.model.Arrive(eth(mac(0), stranger, 1000, 100, i))
		r.receive()
		m.used = 0
		r.send(m.frame(0, 1000, eth(stranger, mac(0), 0, 100, i), 1))
		r.out()
		if i%100 == 0 {
			time.Sleep(2 * often) // the watchdog reads, too
		}
	}
	if s := counted(r.Counters()); !maps.Equal(s, counts{"wire_rx": 300, "wire_tx": 300}) {
		t.Errorf("%+v: want 300 frames each way", s)
	}
}
