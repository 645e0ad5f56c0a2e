package user

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost"
	"vhostkit/switchd/virtio"
)

// fakeSwitch stands for the data plane.
type fakeSwitch struct {
	mu      sync.Mutex
	updates []vhost.Update
	macs    [][6]byte
	closed  bool
	fail    func(error)
}

func (s *fakeSwitch) Connect(c vhost.Connection) (vhost.Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = c.Fail
	return s, nil
}
func (s *fakeSwitch) ID() int { return 0 }
func (s *fakeSwitch) Update(u vhost.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updates = append(s.updates, u)
	for _, q := range u.Rings { // what a worker does first
		if q != nil {
			_ = guestmem.Contain(q.Start)
		}
	}
}
func (s *fakeSwitch) Announce(mac [6]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.macs = append(s.macs, mac)
}
func (s *fakeSwitch) SetMTU(int) error { return nil }
func (s *fakeSwitch) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *fakeSwitch) running() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.updates) == 0 {
		return 0
	}
	for _, q := range s.updates[len(s.updates)-1].Rings {
		if q != nil {
			n++
		}
	}
	return n
}

// client is a front-end's end of a session.
type client struct {
	t    testing.TB
	conn *net.UnixConn
	sw   *fakeSwitch
	done chan struct{}
}

func newSession(t testing.TB) *client {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]*net.UnixConn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	c := &client{t: t, conn: ends[0], sw: &fakeSwitch{}, done: make(chan struct{})}
	config := Config{
		Path: "test", Switch: c.sw, Options: vhost.Options{MaxQueuePairs: 2, Mergeable: true, MTU: 1500},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	go func() {
		defer close(c.done)
		serve(context.Background(), ends[1], config)
	}()
	return c
}

func (c *client) close() {
	c.conn.Close()
	select {
	case <-c.done:
	case <-time.After(10 * time.Second):
		c.t.Fatal("the session does not end")
	}
}

func (c *client) send(r Request, flags uint32, payload []byte, fds ...int) {
	c.t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, uint32(r))
	b = binary.LittleEndian.AppendUint32(b, flagVersion|flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	if _, _, err := c.conn.WriteMsgUnix(append(b, payload...), unix.UnixRights(fds...), nil); err != nil {
		c.t.Fatalf("%v: %v", r, err)
	}
}

func (c *client) answer(r Request) []byte {
	c.t.Helper()
	var h [headerSize]byte
	_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c.conn, h[:]); err != nil {
		c.t.Fatalf("answer to %v: %v", r, err)
	}
	header, err := DecodeHeader(h[:])
	if err != nil || header.Request != r || header.Flags != flagVersion|flagReply {
		c.t.Fatalf("answer to %v has header %+v, %v", r, header, err)
	}
	payload := make([]byte, header.Size)
	if _, err := io.ReadFull(c.conn, payload); err != nil {
		c.t.Fatal(err)
	}
	return payload
}

func (c *client) ask(r Request, payload []byte) []byte {
	c.t.Helper()
	c.send(r, 0, payload)
	return c.answer(r)
}

// tell wants an acknowledgement and returns it: 0 is success.
func (c *client) tell(r Request, payload []byte, fds ...int) uint64 {
	c.t.Helper()
	c.send(r, flagNeedReply, payload, fds...)
	return binary.LittleEndian.Uint64(c.answer(r))
}

func u32s(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

func u64s(v ...uint64) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

func memfd(t testing.TB, size int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("session-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	return fd
}

func eventfd(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func openFDs(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestQEMUOrder plays the order of messages of QEMU 7.2, enabling rings before SET_FEATURES, with memory slots; then its way out.
func TestQEMUOrder(t *testing.T) {
	before := openFDs(t)
	c := newSession(t)
	features := binary.LittleEndian.Uint64(c.ask(VHOST_USER_GET_FEATURES, nil))
	want := virtio.Bits(virtio.VIRTIO_F_VERSION_1, virtio.VIRTIO_F_RING_PACKED, virtio.VIRTIO_NET_F_MRG_RXBUF, virtio.VIRTIO_NET_F_MQ,
		virtio.VHOST_USER_F_PROTOCOL)
	if virtio.Features(features)&want != want {
		t.Fatalf("offered %v", virtio.Features(features).Names())
	}
	c.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, c.ask(VHOST_USER_GET_PROTOCOL_FEATURES, nil))
	if n := binary.LittleEndian.Uint64(c.ask(VHOST_USER_GET_QUEUE_NUM, nil)); n != 2 {
		t.Errorf("GET_QUEUE_NUM is %d, want 2", n)
	}
	if n := binary.LittleEndian.Uint64(c.ask(VHOST_USER_GET_MAX_MEM_SLOTS, nil)); n < 32 {
		t.Errorf("GET_MAX_MEM_SLOTS is %d, want 32 or more", n)
	}
	c.send(VHOST_USER_SET_OWNER, 0, nil)
	call := eventfd(t)
	defer unix.Close(call)
	for i := range uint64(2) {
		c.send(VHOST_USER_SET_VRING_CALL, 0, u64s(i), call)
		c.send(VHOST_USER_SET_VRING_ERR, 0, u64s(i), call)
	}
	for i := range uint32(2) {
		c.send(VHOST_USER_SET_VRING_ENABLE, 0, u32s(i, 1))
	}
	c.send(VHOST_USER_SET_FEATURES, 0, u64s(uint64(want&^virtio.Bits(virtio.VIRTIO_F_RING_PACKED))))
	c.send(VHOST_USER_SET_STATUS, 0, u64s(0xf))
	if s := binary.LittleEndian.Uint64(c.ask(VHOST_USER_GET_STATUS, nil)); s != 0xf {
		t.Errorf("GET_STATUS is %#x", s)
	}
	fd := memfd(t, 1<<20)
	defer unix.Close(fd)
	for range 2 { // once per queue pair, as QEMU before 8.1 does
		if r := c.tell(VHOST_USER_ADD_MEM_REG, u64s(0, 0x1000, 1<<20, 0x7f0000000000, 0), fd); r != 0 {
			t.Fatalf("ADD_MEM_REG: %d", r)
		}
	}
	for i := range uint32(2) {
		at := uint64(0x7f0000000000) + uint64(i)*0x10000
		c.send(VHOST_USER_SET_VRING_NUM, 0, u32s(i, 256))
		c.send(VHOST_USER_SET_VRING_BASE, 0, u32s(i, 0))
		c.send(VHOST_USER_SET_VRING_ADDR, 0, append(u32s(i, 0), u64s(at, at+0x3000, at+0x2000, 0)...))
		c.send(VHOST_USER_SET_VRING_KICK, 0, u64s(uint64(i)), call)
	}
	c.ask(VHOST_USER_GET_STATUS, nil) // everything before is done
	if n := c.sw.running(); n != 2 {
		t.Fatalf("%d rings run, want 2", n)
	}
	mac := []byte{0x52, 0x54, 0, 1, 2, 3, 0, 0}
	c.send(VHOST_USER_SEND_RARP, 0, mac)
	for range 2 {
		if r := c.tell(VHOST_USER_REM_MEM_REG, u64s(0, 0x1000, 1<<20, 0x7f0000000000, 0)); r != 0 {
			t.Errorf("REM_MEM_REG: %d", r)
		}
	}
	for i := range uint32(2) {
		if base := c.ask(VHOST_USER_GET_VRING_BASE, u32s(i, 0)); !bytes.Equal(base, u32s(i, 0)) {
			t.Errorf("GET_VRING_BASE is %x", base)
		}
	}
	if n := c.sw.running(); n != 0 {
		t.Errorf("%d rings run after GET_VRING_BASE", n)
	}
	c.close()
	if len(c.sw.macs) != 1 || !bytes.Equal(c.sw.macs[0][:], mac[:6]) {
		t.Errorf("announced %x", c.sw.macs)
	}
	if !c.sw.closed {
		t.Error("the port was not closed")
	}
	if after := openFDs(t); after > before+2 { // fd and call are ours
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestMemorySlots: regions are added and removed one by one while rings run elsewhere.
func TestMemorySlots(t *testing.T) {
	c := newSession(t)
	defer c.close()
	c.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, u64s(1<<VHOST_USER_PROTOCOL_F_REPLY_ACK))
	c.send(VHOST_USER_SET_FEATURES, 0, u64s(uint64(virtio.Bits(virtio.VIRTIO_F_VERSION_1))))
	fd, kick := memfd(t, 64<<16), eventfd(t)
	defer vhost.CloseFDs(fd, kick)
	const slots = 60
	region := func(i uint64) []byte { return u64s(0, i<<20, 1<<16, 0x7f0000000000+i<<20, i<<16) }
	for i := range uint64(slots) {
		if r := c.tell(VHOST_USER_ADD_MEM_REG, region(i), fd); r != 0 {
			t.Fatalf("slot %d: %d", i, r)
		}
	}
	at := uint64(0x7f0000000000 + 7<<20)
	c.tell(VHOST_USER_SET_VRING_NUM, u32s(0, 64))
	c.tell(VHOST_USER_SET_VRING_ADDR, append(u32s(0, 0), u64s(at, at+0x3000, at+0x2000, 0)...))
	c.tell(VHOST_USER_SET_VRING_KICK, u64s(0), kick)
	if n := c.sw.running(); n != 1 {
		t.Fatalf("%d rings run, want 1", n)
	}
	for i := range uint64(slots) {
		if r := c.tell(VHOST_USER_REM_MEM_REG, region(i)); r != 0 {
			t.Fatalf("removing slot %d: %d", i, r)
		}
		if n, want := c.sw.running(), map[bool]int{true: 1, false: 0}[i < 7]; n != want {
			t.Fatalf("after removing slot %d, %d rings run, want %d", i, n, want)
		}
	}
}

// TestRefusals: an acknowledged refusal keeps the connection, a malformed request ends it.
func TestRefusals(t *testing.T) {
	c := newSession(t)
	c.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, u64s(1<<VHOST_USER_PROTOCOL_F_REPLY_ACK))
	for r, payload := range map[Request][]byte{
		77:                          nil,
		VHOST_USER_NET_SET_MTU:      u64s(12),
		VHOST_USER_REM_MEM_REG:      u64s(0, 1, 2, 3, 4),
		VHOST_USER_SET_LOG_BASE:     u64s(0, 0),
		Request(24) /* config */ :   make([]byte, 12),
		Request(31) /* inflight */ : make([]byte, 24),
	} {
		if got := c.tell(r, payload); got == 0 {
			t.Errorf("%v was acknowledged as done", r)
		}
	}
	c.ask(VHOST_USER_GET_FEATURES, nil)
	if got := c.tell(VHOST_USER_SET_VRING_NUM, u32s(99, 256)); got == 0 {
		t.Error("vring 99 was acknowledged")
	}
	select {
	case <-c.done:
	case <-time.After(5 * time.Second):
		t.Error("the connection goes on after a request that makes no sense")
	}
	c.close()
}

func TestServerReplacesStaleSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	config := Config{
		Path: path, Switch: &fakeSwitch{}, Options: vhost.Options{MaxQueuePairs: 1}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Mode: 0o600,
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(config); err == nil {
		t.Error("a regular file was replaced")
	}
	os.Remove(path)
	s, err := Listen(config)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(config); err == nil {
		t.Error("a live socket was replaced")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

// FuzzSession feeds a session with arbitrary bytes, and descriptors with them: it ends, without a panic, a hang or a leak.
func FuzzSession(f *testing.F) {
	f.Add(append(u32s(1, 1, 0), u32s(2, 1, 8, 1<<30, 0)...), byte(0))
	f.Add(append(u32s(5, 1, 40), append(u32s(1, 0), u64s(0, 4096, 0, 0)...)...), byte(1))
	f.Add(append(u32s(12, 1, 8), u64s(0x100)...), byte(2))
	f.Fuzz(func(t *testing.T, b []byte, kind byte) {
		c := newSession(t)
		var fds []int
		for range kind % 10 {
			if kind&0x80 != 0 {
				fds = append(fds, eventfd(t))
			} else {
				fds = append(fds, memfd(t, 8192))
			}
		}
		_, _, _ = c.conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
		vhost.CloseFDs(fds...)
		_ = c.conn.CloseWrite()
		_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.Copy(io.Discard, c.conn)
		c.close()
		if !c.sw.closed {
			t.Error("the port was not closed")
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(u32s(5, 1, 40), append(u32s(1, 0), u64s(0, 4096, 0, 0)...), uint8(1))
	f.Fuzz(func(t *testing.T, header, payload []byte, fds uint8) {
		h, err := DecodeHeader(header)
		if err == nil && (h.Size > maxPayload || h.Flags&versionMask != flagVersion) {
			t.Errorf("accepted %+v", h)
		}
		m := &Message{Header: h, Payload: payload, FDs: make([]int, fds%12)}
		if specs, err := DecodeMemTable(m); err == nil && len(specs) != len(m.FDs) {
			t.Errorf("%d regions with %d descriptors", len(specs), len(m.FDs))
		}
		_, _ = m.Uint64()
		_, _, _ = m.VringState()
		_, _ = singleRegion(m)
		_, _, _ = m.vringFD()
	})
}
