package ixgbe

import (
	"encoding/binary"
	"log/slog"
	"testing"
	"time"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
	"vhostkit/test/nic82599"
)

// rig is a driver on the model, which breaks the test at the first rule that the driver breaks.
type rig struct {
	*testing.T
	*NIC
	model *nic82599.NIC
	wire  *nic82599.Pair
}

const (
	base  = 1000 // VLAN of port 0
	limit = 5 * time.Second
)

func newRig(t *testing.T, c Config) *rig {
	t.Helper()
	return newRigOn(t, c, nic82599.Config{}, func(d pci.Device) pci.Device { return d })
}

// newRigOn has a certain model, with something between it and the driver.
func newRigOn(t *testing.T, c Config, m nic82599.Config, between func(pci.Device) pci.Device) *rig {
	t.Helper()
	wire := nic82599.NewPair(4096)
	m.Wire, m.Strict = wire, true
	model := nic82599.New(m)
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Layout.Pools == 0 {
		c.Layout = mustLayout(t, "")
	}
	if c.Watch == 0 {
		c.Watch = time.Hour
	}
	c.VLANBase = base
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	n, err := Open(between(model.Device()), c)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t, n, model, wire}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		model.Close()
		for _, v := range model.Violations() {
			t.Errorf("a rule of the datasheet is broken: %v", v)
		}
	})
	return r
}

// counts are counters by name, without those that are 0.
type counts = map[string]uint64

func counted(list []uplink.Counter) counts {
	c := counts{}
	for _, k := range list {
		if k.Value > 0 {
			c[k.Name] = k.Value
		}
	}
	return c
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// mac is the address of a port's guest.
func mac(port int) ether.MAC { return 0x525400000000 | ether.MAC(port) }

const stranger = ether.MAC(0x0200deadbeef)

// add registers the guests of ports.
func (r *rig) add(ports ...int) {
	r.Helper()
	for _, p := range ports {
		r.must(r.AddFilter(uplink.Pool(p), mac(p), ether.VLAN(base+p)))
	}
	r.receive() // new rings are emptied first
}

// received is a frame that came, with a copy of what was there.
type received struct {
	uplink.RxFrame
	queue int
	data  []byte
}

// receive takes what there is from all queues.
func (r *rig) receive() (list []received) {
	r.Helper()
	frames := make([]uplink.RxFrame, 64)
	for i := range r.Queues() {
		for {
			n, err := r.Queue(i).Receive(frames)
			r.must(err)
			if n == 0 {
				break
			}
			for _, f := range frames[:n] {
				list = append(list, received{f, i, append([]byte(nil), f.Addr.Bytes(int(f.Len))...)})
			}
		}
	}
	return list
}

// eth makes a frame of that length, tagged if vlan is not 0, with contents that tell frames apart.
func eth(to, from ether.MAC, vlan, length, seed int) []byte {
	a, b := to.Bytes(), from.Bytes()
	f := append(append(make([]byte, 0, length+4), a[:]...), b[:]...)
	if vlan != 0 {
		f = binary.BigEndian.AppendUint16(append(f, 0x81, 0), uint16(vlan))
	}
	f = append(f, 0x88, 0xb5)
	for i := 0; len(f) < length; i++ {
		f = append(f, byte(seed+i*7))
	}
	return f
}

// memory holds frames as guests do: outside the Go heap.
type memory struct {
	buffer *guestmem.Buffer
	used   int
}

func newMemory(tb testing.TB, size int) *memory {
	tb.Helper()
	b, err := guestmem.NewBuffer(size)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(b.Close)
	return &memory{buffer: b}
}

// frame describes an untagged frame of a port to the uplink, as the switch does: tagged, with the payload cut into pieces.
func (m *memory) frame(port, vlan int, data []byte, pieces int) uplink.TxFrame {
	f := uplink.TxFrame{HeaderLen: ether.HeaderLen + ether.TagLen, Pool: uplink.Pool(port), Len: len(data) + ether.TagLen}
	copy(f.Header[:], data)
	ether.PutTag(f.Header[:], ether.VLAN(vlan))
	rest := data[ether.HeaderLen:]
	for i := range pieces {
		part := rest[:len(rest)/(pieces-i)]
		rest = rest[len(part):]
		copy(m.buffer.Bytes()[m.used:], part)
		f.Segs = append(f.Segs, guestmem.Segment{Addr: m.buffer.Addr(m.used), Len: uint32(len(part))})
		m.used += len(part) + 3
	}
	return f
}

// send sends frames and wants all of them to go.
func (r *rig) send(frames ...uplink.TxFrame) {
	r.Helper()
	if n, err := r.Queue(0).Send(frames, nil); n != len(frames) || err != nil {
		r.Fatalf("sent %d of %d frames: %v", n, len(frames), err)
	}
}

// out is the next frame on the wire.
func (r *rig) out() []byte {
	r.Helper()
	select {
	case f := <-r.wire.Out:
		return f
	case <-time.After(limit):
		r.Fatal("nothing came out of the wire")
		return nil
	}
}

// silent wants nothing on the wire. The model sends as soon as it is told to.
func (r *rig) silent() {
	r.Helper()
	select {
	case f := <-r.wire.Out:
		r.Errorf("this came out of the wire: %x", f)
	default:
	}
}

// registers wants values; names as in the table.
func (r *rig) registers(want map[string]uint32) {
	r.Helper()
	got := r.model.Snapshot()
	for name, v := range want {
		if got[name] != v {
			r.Errorf("register %s is %#x, want %#x", name, got[name], v)
		}
	}
}

// until polls with a deadline.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("after %v not yet: %s", limit, what)
		}
	}
}
