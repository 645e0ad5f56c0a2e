package vhost

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// fakePort is a data plane that only keeps what it is told.
type fakePort struct {
	last    Update
	updates int
	mtu     int
	closed  bool
	waiting string
	quiesce func()
}

func (p *fakePort) ID() int                        { return 0 }
func (p *fakePort) Update(u Update)                { p.last = u; p.updates++ }
func (p *fakePort) Announce([6]byte)               {}
func (p *fakePort) Stopped(error)                  {}
func (p *fakePort) Waiting(reason string)          { p.waiting = reason }
func (p *fakePort) Touch(f func()) *guestmem.Fault { return guestmem.Contain(f) }

func (p *fakePort) Quiesce(*virtio.Queue) {
	if p.quiesce != nil {
		p.quiesce()
	}
}
func (p *fakePort) Close() { p.closed, p.last = true, Update{} }
func (p *fakePort) SetMTU(mtu int) error {
	if mtu > 1500 {
		return errors.New("too large")
	}
	p.mtu = mtu
	return nil
}

func (p *fakePort) running() (rings []int) {
	for i, q := range p.last.Rings {
		if q != nil {
			rings = append(rings, i)
		}
	}
	return rings
}

// rig is a device with one queue pair and what a front-end passes to it.
type rig struct {
	*testing.T
	device *Device
	port   *fakePort
	log    strings.Builder
}

func newRig(t *testing.T, journal *Journal) *rig {
	r := &rig{T: t, port: &fakePort{}}
	r.device = NewDevice(Options{MaxQueuePairs: 1}, r.port, journal, slog.New(slog.NewTextHandler(io.Writer(&r.log), nil)))
	return r
}

func (r *rig) ok(err error) {
	r.Helper()
	if err == nil {
		err = r.device.Refresh()
	}
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) memfd(size int64) int {
	r.Helper()
	fd, err := unix.MemfdCreate("vhost-test", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, size)
	}
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (r *rig) eventfd() int {
	r.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		r.Fatal(err)
	}
	return fd
}

const userBase, memorySize = 1 << 40, 1 << 20

func (r *rig) table() []guestmem.RegionSpec {
	return []guestmem.RegionSpec{{GuestPhysAddr: 0, Size: memorySize, UserAddr: userBase, FD: r.memfd(memorySize)}}
}

var addresses = RingAddresses{Desc: userBase, Avail: userBase + 0x2000, Used: userBase + 0x3000}

const (
	splitFeatures  = 1<<virtio.VIRTIO_F_VERSION_1 | 1<<virtio.VHOST_USER_F_PROTOCOL
	packedFeatures = splitFeatures | 1<<virtio.VIRTIO_F_RING_PACKED
)

// startup is what it takes to run ring 0.
func (r *rig) startup(f virtio.Features) []func() error {
	d := r.device
	return []func() error{
		func() error { return d.SetFeatures(f) },
		func() error { return d.SetMemTable(r.table()) },
		func() error { return d.SetVringNum(0, 256) },
		func() error { return d.SetVringAddr(0, addresses) },
		func() error { return d.SetVringKick(0, r.eventfd()) },
		func() error { return d.SetVringEnable(0, true) },
	}
}

// TestRingStartsInAnyOrder: a ring runs as soon as everything is there, whatever came last.
func TestRingStartsInAnyOrder(t *testing.T) {
	for last := range 6 {
		r := newRig(t, nil)
		steps := r.startup(splitFeatures)
		for i := range steps {
			if i != last {
				r.ok(steps[i]())
			}
		}
		if n := r.port.running(); n != nil {
			t.Errorf("without step %d rings %v run", last, n)
		}
		r.ok(steps[last]())
		if n := r.port.running(); len(n) != 1 || n[0] != 0 {
			t.Errorf("after step %d rings %v run, want ring 0", last, n)
		}
		r.device.Close(false)
		if !r.port.closed {
			t.Error("the port was not closed")
		}
	}
}

func TestRingsStartEnabledWithoutProtocolFeatures(t *testing.T) {
	r := newRig(t, nil)
	defer r.device.Close(false)
	steps := r.startup(1 << virtio.VIRTIO_F_VERSION_1)
	for _, step := range steps[:5] {
		r.ok(step())
	}
	if n := r.port.running(); len(n) != 1 {
		t.Errorf("rings %v run, want ring 0", n)
	}
}

// TestPolledRing: a ring without a kick eventfd runs too.
func TestPolledRing(t *testing.T) {
	r := newRig(t, nil)
	defer r.device.Close(false)
	steps := r.startup(splitFeatures)
	steps[4] = func() error { return r.device.SetVringKick(0, -1) }
	for _, step := range steps {
		r.ok(step())
	}
	if n := r.port.running(); len(n) != 1 || r.port.last.Rings[0].KickFD() != -1 {
		t.Errorf("rings %v run", n)
	}
}

// TestVringBase: where a ring begins and what GET_VRING_BASE gives back. A packed ring's wrap counters begin as 1 (virtio 1.2, 2.8.1).
func TestVringBase(t *testing.T) {
	base := func(v uint32) *uint32 { return &v }
	cases := []struct {
		name     string
		features virtio.Features
		set      *uint32
		first    bool // SET_VRING_BASE comes before SET_FEATURES
		want     uint32
		state    virtio.State
	}{
		{name: "split, not set", features: splitFeatures},
		{name: "split", features: splitFeatures, set: base(77), want: 77, state: virtio.State{Avail: 77}},
		{name: "split, wrapping", features: splitFeatures, set: base(0xffff), want: 0xffff, state: virtio.State{Avail: 0xffff}},
		{name: "packed, not set", features: packedFeatures, want: 0x80008000, state: virtio.State{AvailWrap: true}},
		{name: "packed", features: packedFeatures, set: base(0x80058005), want: 0x80058005, state: virtio.State{Avail: 5, AvailWrap: true}},
		{name: "packed, second lap", features: packedFeatures, set: base(9), want: 0x00090009, state: virtio.State{Avail: 9}},
		{name: "packed, before features", features: packedFeatures, set: base(0x8005), first: true, want: 0x80058005,
			state: virtio.State{Avail: 5, AvailWrap: true}},
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			r := newRig(t, nil)
			defer r.device.Close(false)
			if k.set != nil && k.first {
				r.ok(r.device.SetVringBase(0, *k.set))
			}
			steps := r.startup(k.features)
			r.ok(steps[0]())
			if k.set != nil && !k.first {
				r.ok(r.device.SetVringBase(0, *k.set))
			}
			for _, step := range steps[1:] {
				r.ok(step())
			}
			if r.port.running() == nil {
				t.Fatal("the ring does not run")
			}
			if s := r.port.last.Rings[0].State(); s != k.state {
				t.Errorf("the ring begins at %+v, want %+v", s, k.state)
			}
			got, err := r.device.VringBase(0)
			r.ok(err)
			if got != k.want {
				t.Errorf("GET_VRING_BASE is %#x, want %#x", got, k.want)
			}
			if n := r.port.running(); n != nil {
				t.Errorf("rings %v run after GET_VRING_BASE", n)
			}
		})
	}
}

func TestPackedBaseOutsideRing(t *testing.T) {
	r := newRig(t, nil)
	defer r.device.Close(false)
	r.ok(r.device.SetVringBase(0, 0x8100))
	steps := r.startup(packedFeatures)
	for _, step := range steps[:5] {
		r.ok(step())
	}
	err := steps[5]()
	if err == nil {
		err = r.device.Refresh()
	}
	if !errors.Is(err, virtio.ErrRing) {
		t.Errorf("error is %v, want ErrRing", err)
	}
}

// TestMemoryIsReplacedUnderARunningRing: the data plane lets go of the ring and the old memory first, then the ring goes on in the new one.
func TestMemoryIsReplacedUnderARunningRing(t *testing.T) {
	r := newRig(t, nil)
	defer r.device.Close(false)
	r.ok(r.device.SetVringBase(0, 42))
	for _, step := range r.startup(splitFeatures) {
		r.ok(step())
	}
	old := r.port.last
	if err := r.device.SetMemTable(r.table()); err != nil {
		t.Fatal(err)
	}
	if r.port.running() != nil || r.port.last.Memory != nil {
		t.Error("the data plane still has memory that is closed")
	}
	if len(old.Memory.Regions()) != 0 {
		t.Error("the old memory is still mapped")
	}
	r.ok(nil)
	now := r.port.last
	if r.port.running() == nil || now.Rings[0] == old.Rings[0] || now.Memory == old.Memory {
		t.Fatal("the ring does not run in the new memory")
	}
	if now.Rings[0].State().Avail != 42 {
		t.Errorf("the ring goes on at %d, want 42", now.Rings[0].State().Avail)
	}

	// A table that cannot be mapped leaves everything as it is.
	bad := r.table()
	bad[0].Size *= 2
	if err := r.device.SetMemTable(bad); !errors.Is(err, guestmem.ErrRegion) {
		t.Errorf("error is %v, want ErrRegion", err)
	}
	if r.port.running() == nil || len(now.Memory.Regions()) != 1 {
		t.Error("a table that was refused stopped the ring")
	}

	// One without the ring stops it, with one line however many messages follow, and the next one starts it again.
	elsewhere := r.table()
	elsewhere[0].UserAddr *= 2
	r.ok(r.device.SetMemTable(elsewhere))
	for range 10 {
		r.ok(r.device.SetVringBase(0, 43))
	}
	if r.port.running() != nil {
		t.Error("a ring runs outside the memory")
	}
	if n := strings.Count(r.log.String(), "a ring does not run"); n != 1 {
		t.Errorf("%d lines about the ring, want 1:\n%s", n, r.log.String())
	}
	r.ok(r.device.SetMemTable(r.table()))
	if r.port.running() == nil || r.port.last.Rings[0].State().Avail != 43 {
		t.Error("the ring does not go on")
	}
}

// TestResetStopsRings: by status 0 and by RESET_DEVICE. The rings wait for being set up and enabled again.
func TestResetStopsRings(t *testing.T) {
	for name, reset := range map[string]func(*Device){"status": func(d *Device) { d.SetStatus(0) }, "reset": (*Device).Reset} {
		r := newRig(t, nil)
		steps := r.startup(splitFeatures)
		for _, step := range steps {
			r.ok(step())
		}
		reset(r.device)
		r.ok(nil)
		if n := r.port.running(); n != nil {
			t.Errorf("%s: rings %v run", name, n)
		}
		r.ok(steps[4]())
		r.ok(steps[5]())
		if n := r.port.running(); len(n) != 1 {
			t.Errorf("%s: the ring does not start again", name)
		}
		r.device.Close(false)
	}
}

func TestSetMTU(t *testing.T) {
	r := newRig(t, nil)
	defer r.device.Close(false)
	for mtu, good := range map[uint64]bool{0: false, 67: false, 68: true, 1500: true, 1501: false, 65536: false, 1 << 63: false} {
		err := r.device.SetMTU(mtu)
		if good != (err == nil) || !good && !errors.Is(err, ErrRefused) {
			t.Errorf("SetMTU(%d): %v", mtu, err)
		}
	}
}

// TestFeatures: what the options add, and that nothing is offered which the switch cannot do.
func TestFeatures(t *testing.T) {
	bit := func(bits ...int) virtio.Features { return virtio.Bits(bits...) }
	csum := bit(virtio.VIRTIO_NET_F_CSUM, virtio.VIRTIO_NET_F_GUEST_CSUM)
	tso := bit(virtio.VIRTIO_NET_F_HOST_TSO4, virtio.VIRTIO_NET_F_HOST_TSO6, virtio.VIRTIO_NET_F_GUEST_TSO4, virtio.VIRTIO_NET_F_GUEST_TSO6)
	plain := Options{MaxQueuePairs: 1}.Features()
	for _, k := range []struct {
		options Options
		adds    virtio.Features
	}{
		{Options{MaxQueuePairs: 2}, bit(virtio.VIRTIO_NET_F_MQ)},
		{Options{MaxQueuePairs: 1, Mergeable: true}, bit(virtio.VIRTIO_NET_F_MRG_RXBUF)},
		{Options{MaxQueuePairs: 1, TxCsum: true}, csum},
		{Options{MaxQueuePairs: 1, TSO: true}, csum | tso},
		{Options{MaxQueuePairs: 1, Promiscuous: true}, bit(virtio.VIRTIO_NET_F_CTRL_RX)},
	} {
		if got := k.options.Features() &^ plain; got != k.adds || plain&^k.options.Features() != 0 {
			t.Errorf("%+v adds %v, want %v", k.options, got.Names(), k.adds.Names())
		}
		if bad := k.options.Features() & bit(virtio.VHOST_F_LOG_ALL, virtio.VIRTIO_F_ACCESS_PLATFORM); bad != 0 {
			t.Errorf("%+v offers %v", k.options, bad.Names())
		}
	}
}
