package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/test/frontend"
)

// dial connects a front-end to a switch.
func dial(t testing.TB, sw *switchd, c frontend.Config) *frontend.Device {
	t.Helper()
	c.Socket = sw.Socket
	d, err := frontend.Dial(c)
	if err != nil {
		t.Fatalf("connecting a front-end: %v", err)
	}
	t.Cleanup(d.Close)
	return d
}

type mac [6]byte

func addr(n int) mac { return mac{2, 0, 0, 1, byte(n >> 8), byte(n)} }

var broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// numbered makes a frame that carries its number and a checksum over its payload.
func numbered(to, from mac, size int, n uint32) []byte {
	f := make([]byte, size)
	copy(f, to[:])
	copy(f[6:], from[:])
	f[12], f[13] = 0x88, 0xb5
	if size >= 26 {
		binary.BigEndian.PutUint32(f[14:], n)
		for i := 22; i < size; i++ {
			f[i] = byte(n) + byte(i*7)
		}
		binary.BigEndian.PutUint32(f[18:], crc32.ChecksumIEEE(f[22:]))
	}
	return f
}

// check verifies a numbered frame and gives its number.
func check(f []byte) (uint32, error) {
	if len(f) < 26 {
		return 0, fmt.Errorf("a frame of %d bytes", len(f))
	}
	if crc32.ChecksumIEEE(f[22:]) != binary.BigEndian.Uint32(f[18:]) {
		return 0, errors.New("the payload was changed")
	}
	return binary.BigEndian.Uint32(f[14:]), nil
}

// teach makes the switch learn where an address is.
func teach(t testing.TB, sw *switchd, d *frontend.Device, from mac) {
	t.Helper()
	if err := d.Send(0, numbered(addr(0xeeee), from, 60, 0)); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", from[0], from[1], from[2], from[3], from[4], from[5])
	eventually(t, 5*time.Second, "the switch has learned "+want, func() bool {
		entries, err := sw.Client.FDB(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.MAC == want {
				return true
			}
		}
		return false
	})
}

// expect receives a frame and compares it.
func expect(t testing.TB, d *frontend.Device, want []byte) {
	t.Helper()
	got, err := d.Receive(0, 3*time.Second)
	if err != nil {
		t.Fatalf("frame of %d bytes: %v", len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("received %d bytes\n%x\nwant %d bytes\n%x", len(got), got, len(want), want)
	}
}

func expectNothing(t testing.TB, d *frontend.Device) {
	t.Helper()
	if f, err := d.Receive(0, 30*time.Millisecond); err == nil {
		t.Errorf("received a frame that is none of its business: %x", f)
	}
}

// kinds are the rings that a front-end can have.
func kinds(f func(name string, c frontend.Config)) {
	for _, packed := range []bool{false, true} {
		for _, layout := range []frontend.Layout{frontend.Direct, frontend.Chained, frontend.Indirect} {
			for _, event := range []bool{false, true} {
				ring := map[bool]string{false: "split", true: "packed"}[packed]
				f(fmt.Sprintf("%s layout=%d event_idx=%v", ring, layout, event),
					frontend.Config{Packed: packed, Layout: layout, EventIdx: event})
			}
		}
	}
}

// TestFrontendKinds sends numbered frames of all sizes from each kind of ring to each other kind of ring: content, order, no loss.
func TestFrontendKinds(t *testing.T) {
	sw := startSwitchd(t)
	kinds(func(name string, c frontend.Config) {
		t.Run(name, func(t *testing.T) {
			sw.waitPorts(t, 0)
			a := dial(t, sw, c)
			b := dial(t, sw, frontend.Config{Packed: !c.Packed, EventIdx: c.EventIdx})
			defer a.Close()
			defer b.Close()
			teach(t, sw, b, addr(2))
			for n := range uint32(600) { // more than the rings hold, so that they wrap
				frame := numbered(addr(2), addr(1), 26+int(n*13%1488), n)
				if err := a.Send(0, frame); err != nil {
					t.Fatal(err)
				}
				if n%3 == 0 {
					continue
				}
				for b := b; ; {
					got, err := b.Receive(0, 3*time.Second)
					if err != nil {
						t.Fatalf("frame %d: %v", n, err)
					}
					number, err := check(got)
					if err != nil {
						t.Fatal(err)
					}
					if number == n {
						break
					}
					if number != n-1 {
						t.Fatalf("frame %d came while %d was awaited", number, n)
					}
				}
			}
		})
	})
}

func TestLegacyHeaderAndMergeable(t *testing.T) {
	sw := startSwitchd(t, "--mergeable", "1")
	for _, c := range []struct {
		name   string
		config frontend.Config
		size   int
	}{
		{"legacy header of 10 bytes", frontend.Config{Legacy: true}, 1514},
		{"legacy mergeable", frontend.Config{Legacy: true, Mergeable: true}, 1514},
		{"jumbo over small buffers", frontend.Config{Mergeable: true, Buffer: 600, RingSize: 256}, 9000},
		{"jumbo over small buffers, packed", frontend.Config{Mergeable: true, Packed: true, Buffer: 600, RingSize: 256}, 9000},
		{"jumbo in one large buffer", frontend.Config{Buffer: 10000, RingSize: 64}, 9700},
		{"small ring", frontend.Config{RingSize: 2}, 1514},
		{"ring of 512", frontend.Config{RingSize: 512}, 1514},
	} {
		t.Run(c.name, func(t *testing.T) {
			sw.waitPorts(t, 0)
			from := dial(t, sw, frontend.Config{Buffer: 10000, RingSize: 64})
			to := dial(t, sw, c.config)
			defer from.Close()
			defer to.Close()
			teach(t, sw, to, addr(2))
			for n := range uint32(100) {
				frame := numbered(addr(2), addr(1), c.size, n)
				if err := from.Send(0, frame); err != nil {
					t.Fatal(err)
				}
				expect(t, to, frame)
			}
		})
	}
}

func TestSwitching(t *testing.T) {
	sw := startSwitchd(t)
	d := []*frontend.Device{dial(t, sw, frontend.Config{}), dial(t, sw, frontend.Config{Packed: true}), dial(t, sw, frontend.Config{})}
	for i := range d {
		sw.waitPorts(t, len(d))
		teach(t, sw, d[i], addr(i))
	}
	for i := range d {
		sw.waitLog(t, fmt.Sprintf("DATA: (%d) MAC_ADDRESS 02:00:00:01:00:%02x and VLAN_TAG %d registered", i, i, 1000+i))
	}
	unicast := numbered(addr(1), addr(0), 200, 1)
	if err := d[0].Send(0, unicast); err != nil {
		t.Fatal(err)
	}
	expect(t, d[1], unicast)
	all := numbered(broadcast, addr(0), 64, 2)
	if err := d[0].Send(0, all); err != nil {
		t.Fatal(err)
	}
	expect(t, d[1], all)
	expect(t, d[2], all)
	for _, x := range d {
		expectNothing(t, x)
	}
	// The address moves: a second one on port 1.
	teach(t, sw, d[1], addr(77))
	moved := numbered(addr(77), addr(0), 100, 3)
	if err := d[0].Send(0, moved); err != nil {
		t.Fatal(err)
	}
	expect(t, d[1], moved)
	// Somebody else's address.
	if err := d[2].Send(0, numbered(addr(1), addr(0), 100, 4)); err != nil {
		t.Fatal(err)
	}
	sw.waitLog(t, "device is using a registered MAC address")
	expectNothing(t, d[1])
	// Own address.
	if err := d[0].Send(0, numbered(addr(0), addr(0), 100, 5)); err != nil {
		t.Fatal(err)
	}
	wantDrops(t, sw, 0, "own_address", 1)
	wantDrops(t, sw, 2, "mac_duplicate", 1)
	wantDrops(t, sw, 0, "no_destination", 1) // teach
	p := portOf(t, sw, 1)
	if rx := p.Queues[0].RX; rx.Packets != 3 || rx.Bytes != 200+64+100 {
		t.Errorf("port 1 counts %d frames of %d bytes received, want 3 of 364", rx.Packets, rx.Bytes)
	}
	// On disconnect the address is free, and the identifier too.
	d[1].Close()
	sw.waitPorts(t, 2)
	again := dial(t, sw, frontend.Config{})
	teach(t, sw, again, addr(1))
	if p := portOf(t, sw, 1); p.State != control.StateReady {
		t.Errorf("port 1 is %s after the reconnection", p.State)
	}
}

func portOf(t testing.TB, sw *switchd, id int) control.Port {
	t.Helper()
	p, err := sw.Client.Port(context.Background(), fmt.Sprint(id))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantDrops(t testing.TB, sw *switchd, id int, reason string, want uint64) {
	t.Helper()
	var last control.Port
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		last = portOf(t, sw, id)
		n := uint64(0)
		for _, q := range last.Queues {
			n += q.RX.Drops[reason] + q.TX.Drops[reason]
		}
		if n == want {
			return
		}
	}
	t.Errorf("port %d does not count %d %s: %+v", id, want, reason, last.Queues)
}

func TestVM2VMDisabled(t *testing.T) {
	sw := startSwitchd(t, "--vm2vm", "0")
	a, b := dial(t, sw, frontend.Config{}), dial(t, sw, frontend.Config{})
	teach(t, sw, b, addr(2))
	if err := a.Send(0, numbered(addr(2), addr(1), 100, 1)); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(0, numbered(broadcast, addr(1), 100, 1)); err != nil {
		t.Fatal(err)
	}
	wantDrops(t, sw, 0, "no_uplink", 1)
	expectNothing(t, b)
}

// TestRetryAndLoss: a receiver that does not empty its ring loses frames there, after the retries.
func TestRetryAndLoss(t *testing.T) {
	sw := startSwitchd(t, "--rx-retry-num", "5", "--rx-retry-delay", "20")
	a, b := dial(t, sw, frontend.Config{}), dial(t, sw, frontend.Config{RingSize: 64})
	teach(t, sw, b, addr(2))
	for n := range uint32(100) {
		if err := a.Send(0, numbered(addr(2), addr(1), 60, n)); err != nil {
			t.Fatal(err)
		}
	}
	wantDrops(t, sw, 1, "ring_full", 36)
	if rx := portOf(t, sw, 1).Queues[0].RX; rx.Retries < 5 || rx.Packets != 64 {
		t.Errorf("receiver counts %d retries and %d packets, want 5 or more, and 64", rx.Retries, rx.Packets)
	}
}

// TestManyDevices (docs/dpdk-compat.md, 5): 80 at once, and identifiers above 63; then 100 cycles. What that costs is
// measured on its second run: the first one makes the runtime's own threads and arenas.
func TestManyDevices(t *testing.T) {
	sw := startSwitchd(t)
	small := frontend.Config{RingSize: 16, Buffer: 256}
	first := dial(t, sw, small)
	teach(t, sw, first, addr(1))
	connectMany(t, sw, first, small)
	reconnect(t, sw, small)
	before := usage(t, sw)
	with := connectMany(t, sw, first, small)
	reconnect(t, sw, small)
	after := usage(t, sw)
	t.Logf("before %+v, with 80 more %+v, afterwards %+v", before, with, after)
	if after.fds > before.fds || after.maps != before.maps || with.maps != before.maps+80 {
		t.Errorf("leak: before %+v, after %+v", before, after)
	}
	if after.rss > before.rss+8<<20 {
		t.Errorf("resident memory grew from %d to %d KiB", before.rss>>10, after.rss>>10)
	}
	if perPort := (with.rss - before.rss) / 80; perPort > 400<<10 {
		t.Errorf("a port costs %d KiB, guests' shared pages included", perPort>>10)
	}
}

// connectMany plugs 80 devices in, uses the last, and unplugs them.
func connectMany(t *testing.T, sw *switchd, first *frontend.Device, c frontend.Config) resources {
	t.Helper()
	var devices []*frontend.Device
	for range 80 {
		devices = append(devices, dial(t, sw, c))
	}
	sw.waitPorts(t, 81)
	last := devices[79]
	teach(t, sw, last, addr(80))
	frame := numbered(addr(80), addr(1), 60, 1)
	if err := first.Send(0, frame); err != nil {
		t.Fatal(err)
	}
	expect(t, last, frame)
	sw.waitLog(t, "DATA: (80) MAC_ADDRESS 02:00:00:01:00:50 and VLAN_TAG 1080 registered")
	used := usage(t, sw)
	for _, d := range devices {
		d.Close()
	}
	sw.waitPorts(t, 1)
	return used
}

// reconnect plugs a device in and out, 100 times.
func reconnect(t *testing.T, sw *switchd, c frontend.Config) {
	t.Helper()
	for i := range 100 {
		c.Packed = i%2 == 1
		d := dial(t, sw, c)
		teach(t, sw, d, addr(500+i))
		if p := portOf(t, sw, 1); p.State != control.StateReady {
			t.Fatalf("cycle %d: the lowest free identifier was not used", i)
		}
		d.Close()
		sw.waitPorts(t, 1)
	}
}

// TestTwoWorkers: devices on two workers exchange numbered frames all at once, each with each, while others come and go and make the switch
// move rings between its workers.
func TestTwoWorkers(t *testing.T) {
	sw := startSwitchd(t, "--cores", "0-1")
	const n, frames = 4, 400
	var d []*frontend.Device
	for i := range n {
		d = append(d, dial(t, sw, frontend.Config{Packed: i%2 == 1, EventIdx: i >= 2}))
		teach(t, sw, d[i], addr(i))
	}
	stop, moved := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(moved)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if x, err := frontend.Dial(frontend.Config{Socket: sw.Socket, RingSize: 16, Buffer: 256}); err == nil {
				x.Close()
			}
		}
	}()
	failures := make(chan error, n)
	for i := range n {
		go func() { failures <- exchangeRing(d[i], i, (i+1)%n, (i+n-1)%n, frames) }()
	}
	for range n {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-moved
	workers := map[int]bool{}
	for _, p := range sw.ports(t) {
		for _, w := range p.Workers {
			workers[w] = true
		}
	}
	if len(workers) != 2 {
		t.Errorf("the rings are on workers %v, want two", workers)
	}
}

// exchangeRing sends numbered frames from one device to the next and checks those that come from the one before.
func exchangeRing(d *frontend.Device, self, next, previous, frames int) error {
	for n := range uint32(frames) {
		if err := d.Send(0, numbered(addr(next), addr(self), 100, n)); err != nil {
			return err
		}
		f, err := d.Receive(0, 10*time.Second)
		if err != nil {
			return fmt.Errorf("device %d: frame %d: %w", self, n, err)
		}
		from := addr(previous)
		if got, err := check(f); err != nil || got != n || !bytes.Equal(f[6:12], from[:]) {
			return fmt.Errorf("device %d received frame %d from %x, %w; want %d", self, got, f[6:12], err, n)
		}
	}
	return nil
}
