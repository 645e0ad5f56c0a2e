package ixgbe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"testing"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/uplink"
)

const broadcast = ether.MAC(1<<48 - 1)

func TestReceive(t *testing.T) {
	for _, strip := range []bool{true, false} {
		r := newRig(t, Config{VLANStrip: strip, Queues: 2})
		r.add(0, 1, 2)
		for _, c := range []struct {
			name     string
			to       ether.MAC
			vlan     int
			port     int // -1: nobody
			priority int
		}{
			{"unicast", mac(1), 1001, 1, 0}, {"with priority", mac(2), 1002, 2, 5}, {"broadcast", broadcast, 1002, 2, 0},
			{"multicast", 0x3333_00000001, 1000, 0, 0}, {"another's VLAN", mac(1), 1002, -1, 0}, {"a VLAN without a guest", broadcast, 1050, -1, 0},
			{"a VLAN of nobody", mac(1), 7, -1, 0}, {"no tag", mac(1), 0, -1, 0}, {"an unknown address", stranger + 1, 1001, -1, 0},
		} {
			vlan := c.vlan
			if vlan != 0 {
				vlan |= c.priority << 13
			}
			sent := eth(c.to, stranger, vlan, 200, len(c.name))
			r.model.Arrive(sent)
			got := r.receive()
			if c.port < 0 {
				if len(got) != 0 {
					t.Errorf("%s: came to pool of VLAN %d", c.name, got[0].VLAN)
				}
				continue
			}
			if len(got) != 1 {
				t.Fatalf("%s: %d frames came, want 1", c.name, len(got))
			}
			g := got[0]
			want := sent
			if strip {
				want = append(append([]byte(nil), sent[:12]...), sent[16:]...)
			}
			if !g.Tagged || g.Stripped != strip || int(g.VLAN) != base+c.port || g.queue != c.port%2 || !bytes.Equal(g.data, want) {
				t.Errorf("%s: got %+v %x in queue %d, want VLAN %d and %x", c.name, g.RxFrame, g.data, g.queue, base+c.port, want)
			}
		}
	}
}

func TestPromiscuous(t *testing.T) {
	r := newRig(t, Config{Promiscuous: true, VLANStrip: true})
	r.add(1, 2)
	unknown := func(when string) {
		r.model.Arrive(eth(stranger+1, stranger, 1001, 100, 0))
		if got := r.receive(); len(got) != 1 || got[0].VLAN != 1001 {
			t.Errorf("%s: %d frames for an unknown address came, want 1: the switch gives it to the VLAN's port", when, len(got))
		}
	}
	unknown("at first")
	r.must(r.RemoveFilter(2, mac(2), 1002))
	r.receive()
	unknown("after somebody has left")
	if err := r.AddFilter(64, mac(64), base+64); !errors.Is(err, uplink.ErrNoPool) {
		t.Fatalf("the 65th port: %v", err)
	}
	r.must(r.RemoveFilter(64, mac(64), base+64))
	unknown("after the 65th port has left")
	r.must(r.RemoveFilter(1, mac(1), 1001))
	r.receive()
	unknown("after all have left")
	r.mu.Lock()
	r.recover("the test wants it")
	r.mu.Unlock()
	unknown("after a reset")
}

// Many times around the rings, in order, with nothing lost.
func TestRingsWrap(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true})
	r.add(0)
	m := newMemory(t, 1<<20)
	for i := 0; i < 5*rxSize; i += 100 {
		for j := range 100 {
			r.model.Arrive(eth(mac(0), stranger, 1000, 64+(i+j)%1400, i+j))
		}
		got := r.receive()
		if len(got) != 100 {
			t.Fatalf("%d of 100 frames came after %d", len(got), i)
		}
		m.used = 0
		var frames []uplink.TxFrame
		for j, g := range got {
			if want := eth(mac(0), stranger, 0, 60+(i+j)%1400, i+j); !bytes.Equal(g.data, want) {
				t.Fatalf("frame %d: got %x, want %x", i+j, g.data, want)
			}
			frames = append(frames, m.frame(0, 1000+j%3, g.data, 1+j%3))
		}
		r.send(frames...)
		for j, g := range got {
			want := eth(mac(0), stranger, 1000+j%3, len(g.data)+4, i+j)
			if out := r.out(); !bytes.Equal(out, want) {
				t.Fatalf("frame %d went out as %x, want %x", i+j, out, want)
			}
		}
	}
	if s := counted(r.Counters()); !maps.Equal(s, counts{"wire_rx": 2600, "wire_tx": 2600}) {
		t.Errorf("counters are %+v, want 2600 each way and nothing lost", s)
	}
}

func TestReceiveOverrun(t *testing.T) {
	r := newRig(t, Config{VLANStrip: true})
	r.add(0)
	for i := range 2 * rxSize {
		r.model.Arrive(eth(mac(0), stranger, 1000, 100, i))
	}
	got := len(r.receive())
	if missed := counted(r.Counters())["missed"]; got < rxSize-refillBatch-1 || got+int(missed) != 2*rxSize {
		t.Errorf("%d frames came and %d were missed, of %d", got, missed, 2*rxSize)
	}
}

// Short frames are padded with zeros, never with what an earlier frame left in the buffer.
func TestPadding(t *testing.T) {
	r := newRig(t, Config{})
	m := newMemory(t, 8<<20)
	secret := eth(stranger, mac(0), 0, 1000, 1)
	for i := 0; i < txSize; i += 64 {
		var frames []uplink.TxFrame
		for range 64 {
			frames = append(frames, m.frame(0, 1000, secret, 1))
		}
		r.send(frames...)
		for range 64 {
			r.out()
		}
	}
	short := eth(stranger, mac(0), 0, 20, 1)
	r.send(m.frame(0, 1000, short, 1))
	want := append(eth(stranger, mac(0), 1000, 24, 1), make([]byte, 40)...)
	if out := r.out(); !bytes.Equal(out, want) {
		t.Errorf("a frame of 20 bytes went out as %x, want %x", out, want)
	}
}

// Tags that guests put themselves: 802.1Q is the NIC's to insert again, 802.1ad stays where it is.
func TestTags(t *testing.T) {
	r := newRig(t, Config{})
	m := newMemory(t, 1<<16)
	q := m.frame(0, 77|3<<13, eth(stranger, mac(0), 0, 100, 1), 1)
	binary.BigEndian.PutUint16(q.Header[14:], 77|3<<13)
	ad := m.frame(0, 78, eth(stranger, mac(0), 0, 100, 1), 1)
	binary.BigEndian.PutUint16(ad.Header[12:], ether.TypeQinQ)
	none := m.frame(0, 78, eth(stranger, mac(0), 0, 100, 1), 1)
	none.HeaderLen, none.Len = ether.HeaderLen, 100
	copy(none.Header[:], eth(stranger, mac(0), 0, 14, 0))
	r.send(q, ad, none, q)
	want := eth(stranger, mac(0), 77|3<<13, 104, 1)
	wantAD := append([]byte(nil), want...)
	copy(wantAD[12:], []byte{0x88, 0xa8, 0, 78})
	for i, want := range [][]byte{want, wantAD, eth(stranger, mac(0), 0, 100, 1), want} {
		if out := r.out(); !bytes.Equal(out, want) {
			t.Errorf("frame %d went out as %x, want %x", i, out, want)
		}
	}
}

func TestJumbo(t *testing.T) {
	r := newRig(t, Config{MaxFrame: 9726, VLANStrip: true})
	r.add(0)
	m := newMemory(t, 1<<20)
	big := eth(mac(0), stranger, 1000, 9726, 3)
	r.model.Arrive(big)
	r.model.Arrive(eth(mac(0), stranger, 1000, 9731, 4)) // one byte more than the NIC takes with a tag
	got := r.receive()
	if len(got) != 1 || !bytes.Equal(got[0].data[12:], big[16:]) {
		t.Fatalf("%d frames came, want the one of 9726 bytes", len(got))
	}
	r.send(m.frame(0, 1000, got[0].data, 5))
	if out := r.out(); !bytes.Equal(out, big) {
		t.Errorf("the frame went out with %d bytes, want %d", len(out), len(big))
	}
	if s := counted(r.Counters()); s["truncated"] != 1 {
		t.Errorf("%+v: want one frame that was too long", s)
	}
	if l, err := r.Link(); err != nil || l.MTU != 9704 || !l.Carrier {
		t.Errorf("link %+v, %v: want MTU 9704", l, err)
	}
}

// A sender whose memory vanishes costs its own frame; those before it go, and the ring goes on.
func TestVanishedSender(t *testing.T) {
	r := newRig(t, Config{})
	m := newMemory(t, 1<<16)
	good := eth(stranger, mac(0), 0, 100, 1)
	gone := m.frame(0, 1005, good, 1)
	hole, err := guestmem.NewBuffer(4096)
	r.must(err)
	gone.Segs = []guestmem.Segment{{Addr: hole.Addr(0), Len: 86}}
	hole.Close()
	frames := []uplink.TxFrame{m.frame(0, 1000, good, 1), gone, m.frame(0, 1000, good, 1)}
	var n int
	var sendErr error
	if fault := guestmem.Contain(func() { n, sendErr = r.Queue(0).Send(frames, nil) }); fault != nil || n != 1 || sendErr == nil {
		t.Fatalf("sent %d, error %v, fault %v; want 1 and an error", n, sendErr, fault)
	}
	r.send(frames[2], m.frame(0, 1005, good, 1))
	for i, vlan := range []int{1000, 1000, 1005} {
		if out := r.out(); !bytes.Equal(out, eth(stranger, mac(0), vlan, 104, 1)) {
			t.Errorf("frame %d went out as %x", i, out)
		}
	}
	r.silent()
}
