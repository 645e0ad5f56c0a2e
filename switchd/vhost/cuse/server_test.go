package cuse

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost"
)

// TestQEMU: a device's life as QEMU leads it.
func TestQEMU(t *testing.T) {
	k := boot(t)
	g := newGuest(t, 0, 16, 0)
	h := k.open()
	k.ok(h, VHOST_GET_BACKEND_FEATURES, nil)
	if k.sw.port(0) != nil {
		t.Fatal("a device without an owner has a port")
	}
	k.setUp(h, g)
	p := k.sw.port(0)
	if c := p.connection; c.Socket != "/dev/test" || c.Transport != "vhost-cuse" || c.Peer.PID != k.tid || c.Peer.Comm == "" {
		t.Errorf("connection %+v", c)
	}
	if rings, _ := p.state(); !slices.Equal(rings, []int{0, 1}) {
		t.Fatalf("rings %v run, want both; log:\n%s", rings, k.log)
	}
	k.ok(h, VHOST_SET_VRING_CALL, words(0, uint32(eventFD(t)))) // a vector is unmasked
	k.ok(h, VHOST_SET_VRING_CALL, words(1, noFD))
	k.ok(h, VHOST_SET_MEM_TABLE, table(g.region())) // a balloon moves
	if rings, _ := p.state(); !slices.Equal(rings, []int{0, 1}) {
		t.Errorf("rings %v run after changes, want both", rings)
	}
	k.ok(h, VHOST_NET_SET_BACKEND, words(0, noFD))
	if rings, _ := p.state(); !slices.Equal(rings, []int{1}) {
		t.Errorf("rings %v run, want 1 alone", rings)
	}
	k.ok(h, VHOST_NET_SET_BACKEND, words(1, noFD))
	for i := range uint32(queues) {
		if answer := k.ok(h, VHOST_GET_VRING_BASE, words(i, 99)); !slices.Equal(answer, words(i, 0)) {
			t.Errorf("base of vring %d: % x", i, answer)
		}
	}
	k.start(h, g)
	if rings, _ := p.state(); len(rings) != 2 {
		t.Errorf("rings %v run after the restart", rings)
	}
	k.release(h)
	eventually(t, "the port is closed", func() bool { _, closed := p.state(); return closed })
}

func TestFeatures(t *testing.T) {
	k := boot(t)
	h := k.open()
	f := binary.NativeEndian.Uint64(k.ok(h, VHOST_GET_FEATURES, nil))
	for bit, want := range map[uint]bool{32: true, 15: true, 29: true, VHOST_NET_F_VIRTIO_NET_HDR: true, 26: false, 30: false} {
		if f>>bit&1 == 1 != want {
			t.Errorf("feature %d of %#x: want %v", bit, f, want)
		}
	}
	k.ok(h, VHOST_SET_OWNER, nil)
	k.ok(h, VHOST_SET_FEATURES, binary.NativeEndian.AppendUint64(nil, f))
	k.wants(unix.EOPNOTSUPP, h, VHOST_SET_FEATURES, binary.NativeEndian.AppendUint64(nil, f|1<<26))
	k.wants(unix.EOPNOTSUPP, h, VHOST_SET_BACKEND_FEATURES, binary.NativeEndian.AppendUint64(nil, 2))
}

// TestRefusals: what the caller is told. Nothing of it changes the running device.
func TestRefusals(t *testing.T) {
	k := boot(t)
	g := newGuest(t, 0, 16, 0)
	h := k.open()
	k.wants(unix.EPERM, h, VHOST_SET_FEATURES, features())
	k.wants(unix.EPERM, h, VHOST_SET_MEM_TABLE, table(g.region()))
	k.wants(unix.EPERM, h, VHOST_RESET_OWNER, nil)
	k.setUp(h, g)
	private := guestRegion{0, 4096, 0}
	for _, test := range []struct {
		cmd  ioctl
		data []byte
		want unix.Errno
	}{
		{VHOST_SET_OWNER, nil, unix.EBUSY},
		{0x8008AF7F, nil, unix.ENOTTY},
		{0x5401, nil, unix.ENOTTY},
		{VHOST_SET_VRING_NUM, words(0, 32), unix.EBUSY},
		{VHOST_SET_VRING_BASE, words(1, 0), unix.EBUSY},
		{VHOST_SET_VRING_NUM, words(2, 32), unix.ENOBUFS},
		{VHOST_SET_VRING_BASE, words(noFD, 0), unix.ENOBUFS},
		{VHOST_GET_VRING_BASE, words(7, 0), unix.ENOBUFS},
		{VHOST_SET_VRING_ADDR, g.ringAddr(2, 1), unix.ENOBUFS},
		{VHOST_NET_SET_BACKEND, words(3, noFD), unix.ENOBUFS},
		{VHOST_NET_SET_BACKEND, words(0, 4000), unix.EBADF},
		{VHOST_SET_VRING_KICK, words(2, noFD), unix.ENOBUFS},
		{VHOST_SET_VRING_KICK, words(0, 4000), unix.EBADF},
		{VHOST_SET_VRING_KICK, words(0, noFD-1), unix.EBADF},
		{VHOST_SET_VRING_CALL, words(0, uint32(g.fd)), unix.EINVAL},
		{VHOST_SET_VRING_ERR, words(0, 4000), unix.EBADF},
		{VHOST_SET_VRING_ENDIAN, words(0, 1), unix.EINVAL},
		{VHOST_SET_LOG_BASE, make([]byte, 8), unix.EOPNOTSUPP},
		{VHOST_SET_LOG_FD, words(noFD), unix.EOPNOTSUPP},
		{VHOST_SET_MEM_TABLE, words(510, 0), unix.E2BIG},
		{VHOST_SET_MEM_TABLE, words(noFD, 0), unix.E2BIG},
		{VHOST_SET_MEM_TABLE, words(3, 0), unix.EFAULT}, // its memory ends there
		{VHOST_SET_MEM_TABLE, append(words(1, 1), table(private)[8:]...), unix.EOPNOTSUPP},
		{VHOST_SET_MEM_TABLE, table(guestRegion{0, 0, 4096}), unix.EFAULT},
		{VHOST_SET_MEM_TABLE, table(guestRegion{1 << 63, 1 << 63, 4096}, guestRegion{0, 1, 1}), unix.EFAULT},
		{VHOST_SET_MEM_TABLE, table(guestRegion{0, 4096, 1 << 63}), unix.EFAULT},
		{VHOST_SET_MEM_TABLE, table(g.region(), guestRegion{4096, 4096, g.at(0)}), unix.EFAULT},
	} {
		k.wants(test.want, h, test.cmd, test.data)
	}
	for _, flag := range []uint32{FUSE_IOCTL_COMPAT, FUSE_IOCTL_32BIT} {
		if errno, _ := k.ioctlOnce(h, flag|FUSE_IOCTL_UNRESTRICTED, VHOST_GET_FEATURES, nil, 0); errno != unix.EOPNOTSUPP {
			t.Errorf("a 32-bit caller: %v", errno)
		}
	}
	if rings, _ := k.sw.port(0).state(); !slices.Equal(rings, []int{0, 1}) {
		t.Errorf("rings %v run, want both still", rings)
	}
	for _, accepted := range []struct {
		cmd  ioctl
		data []byte
	}{
		{VHOST_SET_VRING_ERR, words(0, noFD)},
		{VHOST_SET_VRING_ERR, words(1, uint32(eventFD(t)))},
		{VHOST_SET_VRING_ENDIAN, words(0, 0)},
		{VHOST_GET_VRING_ENDIAN, words(0, 0)},
		{VHOST_SET_VRING_BUSYLOOP_TIMEOUT, words(0, 50)},
		{VHOST_GET_VRING_BUSYLOOP_TIMEOUT, words(0, 0)},
		{VHOST_SET_BACKEND_FEATURES, make([]byte, 8)},
		{VHOST_RESET_OWNER, nil},
		{VHOST_SET_OWNER, nil},
	} {
		k.ok(h, accepted.cmd, accepted.data)
	}
	if _, closed := k.sw.port(0).state(); !closed {
		t.Error("the port of the former owner is still there")
	}
}

// TestMessages: what is no ioctl of an open device.
func TestMessages(t *testing.T) {
	k := boot(t)
	h := k.open()
	for _, opcode := range []uint32{15, 16, 25, 40, 9999} {
		if errno, _ := k.ask(opcode, make([]byte, 40)); errno != unix.ENOSYS {
			t.Errorf("operation %d: %v", opcode, errno)
		}
	}
	k.send(FUSE_INTERRUPT, make([]byte, 8)) // is not answered: the next answer is of the next request
	if errno, _ := k.ioctl(h+1, VHOST_GET_FEATURES, nil); errno != unix.EBADF {
		t.Errorf("ioctl of a file that is not open: %v", errno)
	}
	if errno, _ := k.ask(FUSE_IOCTL, make([]byte, 31)); errno != unix.EIO {
		t.Errorf("short ioctl: %v", errno)
	}
	if errno, _ := k.ioctlOnce(h, FUSE_IOCTL_UNRESTRICTED, VHOST_SET_VRING_NUM, make([]byte, 9), 0); errno != unix.EFAULT {
		t.Errorf("ioctl with more memory than it wants: %v", errno)
	}
	if errno, _ := k.ask(FUSE_RELEASE, nil); errno != unix.EIO {
		t.Errorf("short release: %v", errno)
	}
	if errno, _ := k.ask(FUSE_DESTROY, nil); errno != 0 {
		t.Errorf("destroy: %v", errno)
	}
	k.release(h)
	k.release(h) // again harms nobody
}

// TestChangingTable: the number of regions changes between the two looks at the table.
func TestChangingTable(t *testing.T) {
	k := boot(t)
	h := k.open()
	k.ok(h, VHOST_SET_OWNER, nil)
	for _, data := range [][]byte{words(2, 0, 0, 0), append(words(2, 0), make([]byte, 32)...), append(words(0, 0), make([]byte, 32)...)} {
		if errno, _ := k.ioctlOnce(h, FUSE_IOCTL_UNRESTRICTED, VHOST_SET_MEM_TABLE, data, 0); errno != unix.EFAULT {
			t.Errorf("table % x: %v", data, errno)
		}
	}
}

// TestNoPort: the switch refuses.
func TestNoPort(t *testing.T) {
	k := boot(t)
	k.sw.err = errors.New("full")
	h := k.open()
	k.wants(unix.EINVAL, h, VHOST_SET_OWNER, nil)
	k.wants(unix.EPERM, h, VHOST_SET_FEATURES, features())
}

// TestFault: the data plane stops a device. QEMU can stop it without an error, and start another.
func TestFault(t *testing.T) {
	k := boot(t)
	g := newGuest(t, 0, 16, 0)
	h := k.open()
	k.setUp(h, g)
	first := k.sw.port(0)
	first.connection.Fail(errors.New("the ring is broken"))
	first.connection.Fail(errors.New("and again"))
	eventually(t, "the port is closed", func() bool { _, closed := first.state(); return closed })
	for i := range uint32(queues) {
		k.ok(h, VHOST_NET_SET_BACKEND, words(i, noFD))
		k.wants(unix.EIO, h, VHOST_GET_VRING_BASE, words(i, 0))
	}
	k.start(h, g)
	second := k.sw.port(1)
	if second == nil {
		t.Fatalf("no second device; log:\n%s", k.log)
	}
	if rings, _ := second.state(); len(rings) != 2 {
		t.Errorf("rings %v run", rings)
	}
	second.mu.Lock()
	for i, q := range second.last.Rings {
		if q.CallFD() < 0 {
			t.Errorf("ring %d has lost the eventfd that wakes the guest", i)
		}
	}
	second.mu.Unlock()
	if !strings.Contains(k.log.String(), "the ring is broken") {
		t.Errorf("log:\n%s", k.log)
	}
}

// TestBadRing: a ring that is malformed ends the device, not the switch.
func TestBadRing(t *testing.T) {
	k := boot(t)
	g := newGuest(t, 0, 16, 0)
	h := k.open()
	k.setUp(h, g)
	k.ok(h, VHOST_NET_SET_BACKEND, words(0, noFD))
	bad := words(0, 0)
	for range 4 {
		bad = binary.NativeEndian.AppendUint64(bad, g.at(1)) // not aligned
	}
	k.ok(h, VHOST_SET_VRING_ADDR, bad)
	if errno, _ := k.ioctl(h, VHOST_NET_SET_BACKEND, words(0, uint32(g.fd))); errno == 0 {
		t.Error("a malformed ring was accepted")
	}
	if _, closed := k.sw.port(0).state(); !closed {
		t.Error("its device goes on")
	}
}

// TestStop: the switch stops while devices run.
func TestStop(t *testing.T) {
	k := boot(t)
	g := newGuest(t, 0, 16, 0)
	k.setUp(k.open(), g)
	k.ok(k.open(), VHOST_SET_OWNER, nil)
	k.shutdown()
	for i := range 2 {
		if _, closed := k.sw.port(i).state(); !closed {
			t.Errorf("port %d is not closed", i)
		}
	}
}

func TestInit(t *testing.T) {
	for name, test := range map[string]struct {
		opcode uint32
		body   []byte
		want   string
	}{
		"old kernel":     {CUSE_INIT, words(7, 15, 0, 1), "version 7.15"},
		"new protocol":   {CUSE_INIT, words(8, 1, 0, 1), "version 8.1"},
		"restricted":     {CUSE_INIT, words(7, 31, 0, 0), "unrestricted"},
		"short":          {CUSE_INIT, words(7, 31, 0), "CUSE_INIT is wanted"},
		"something else": {FUSE_OPEN, words(7, 31, 0, 1), "CUSE_INIT is wanted"},
	} {
		pair := socketPair(t)
		k := &kernel{t: t, socket: pair[0]}
		k.send(test.opcode, test.body)
		_, err := start(Config{Name: "test", Log: slog.New(slog.DiscardHandler), Switch: &fakeSwitch{}, Options: vhost.Options{}}, pair[1])
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		pair[0].Close()
		pair[1].Close()
	}
}
