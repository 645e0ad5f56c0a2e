package user

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
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
	opened  bool
	closed  bool
	fail    func(error)
}

func (s *fakeSwitch) Connect(c vhost.Connection) (vhost.Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.opened = c.Fail, true
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
func (s *fakeSwitch) Quiesce(*virtio.Queue) {}

func (s *fakeSwitch) Touch(f func()) *guestmem.Fault { return guestmem.Contain(f) }
func (s *fakeSwitch) Waiting(string)                 {}
func (s *fakeSwitch) Stopped(error)                  {}
func (s *fakeSwitch) SetMTU(int) error               { return nil }
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
	log  *bytes.Buffer // may be read when done is closed
	done chan struct{}
}

// pair gives the two ends of a connection.
func pair(t testing.TB) [2]*net.UnixConn {
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
	return ends
}

func newSession(t testing.TB) *client {
	t.Helper()
	log, sw := &bytes.Buffer{}, &fakeSwitch{}
	c := newSessionOn(t, sw, slog.New(slog.NewTextHandler(log, nil)))
	c.log, c.sw = log, sw
	return c
}

// newSessionOn is a session on some switch.
func newSessionOn(t testing.TB, sw vhost.Switch, log *slog.Logger) *client {
	t.Helper()
	ends := pair(t)
	c := &client{t: t, conn: ends[0], done: make(chan struct{})}
	config := Config{
		Path: "test", Switch: sw, Options: vhost.Options{MaxQueuePairs: 2, Mergeable: true, MTU: 1500},
		Log: log,
	}
	go func() {
		defer close(c.done)
		d := newDoor(config)
		defer d.close() // ends at once what would be kept for a while
		d.serve(context.Background(), ends[1])
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

func (c *client) ask(r Request, payload []byte, fds ...int) []byte {
	c.t.Helper()
	c.send(r, 0, payload, fds...)
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

// sameFDs waits until as many descriptors are open as before: some are closed by another goroutine.
func sameFDs(t testing.TB, before int) {
	t.Helper()
	after := 0
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if after = openFDs(t); after <= before {
			return
		}
	}
	t.Errorf("%d descriptors before, %d after", before, after)
}

func openFDs(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
