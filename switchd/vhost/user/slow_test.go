package user

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/vhost"
)

// slow gives a descriptor whose close(2) waits until the test ends: SO_LINGER, and more data than the peer takes.
func slow(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // the session has its own
	c.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for junk := make([]byte, 1<<20); ; {
		if _, err := unix.Write(fd, junk); err != nil {
			break
		}
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// pass sends a message with descriptors, of which the switch has the only ones then: the message ends after ours are closed.
func (c *client) pass(r Request, payload []byte, fds ...int) {
	c.t.Helper()
	b := message(r, payload)
	if _, _, err := c.conn.WriteMsgUnix(b[:4], unix.UnixRights(fds...), nil); err != nil {
		c.t.Fatal(err)
	}
	vhost.CloseFDs(fds...)
	if _, err := c.conn.Write(b[4:]); err != nil {
		c.t.Fatal(err)
	}
}

// TestSlowDescriptors: descriptors that take an hour to close hold up neither their own session, nor its end, nor the socket's.
func TestSlowDescriptors(t *testing.T) {
	l := plenty()
	l[budget.Threads] = budget.Limit{Total: 4, User: 2, Account: 2}
	h := newHost(t, "vm1", budget.New(l, nil))
	c := h.dial()
	for range 3 {
		c.pass(VHOST_USER_GET_FEATURES, nil, slow(t))
		c.answer(VHOST_USER_GET_FEATURES)
	}
	if !c.served(5 * time.Second) {
		t.Error("the session waits for a descriptor")
	}
	c.pass(VHOST_USER_SET_BACKEND_REQ_FD, nil, slow(t))
	c.conn.Close()
	h.eventually("the port is given back", func() bool { return h.used(budget.Ports) == 0 && h.used(budget.Connections) == 0 })
	if h.used(budget.Descriptors) == 0 {
		t.Error("descriptors that are not closed are not counted")
	}
	again := h.dial()
	if !again.served(5 * time.Second) {
		t.Errorf("the port does not take its guest back; log:\n%s", h.log)
	}
	if d := h.stop(); d > stopTimeout+5*time.Second {
		t.Errorf("stopping took %v", d)
	}
}

// TestUnreadDescriptors: what lies in a connection that is refused before it is read holds up nobody.
func TestUnreadDescriptors(t *testing.T) {
	l := plenty()
	l[budget.Connections] = budget.Limit{}
	l[budget.Threads] = budget.Limit{Total: 1, User: 1, Account: 1}
	d := newDoor(Config{Budget: budget.New(l, nil), Log: slog.New(slog.DiscardHandler)})
	for range 3 {
		ends := pair(t)
		defer ends[0].Close()
		fd := slow(t)
		if _, _, err := ends[0].WriteMsgUnix(message(VHOST_USER_GET_FEATURES, nil), unix.UnixRights(fd), nil); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		ended := make(chan struct{})
		go func() {
			d.serve(context.Background(), ends[1])
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("a refused connection does not end")
		}
	}
	if n := d.rest.Waiting(); n != 2 { // and one is being closed
		t.Errorf("%d connections wait to be closed, want 2", n)
	}
}

// TestFloodOfSlowDescriptors: more than a message may carry are closed by the kernel in the thread that reads. That session hangs, and is
// left behind by name; the server ends.
func TestFloodOfSlowDescriptors(t *testing.T) {
	h := newHost(t, "", budget.New(plenty(), nil))
	other, ends := h.dial(), pair(t)
	defer ends[0].Close()
	var fds []int
	for range MaxFDs {
		fds = append(fds, eventfd(t))
	}
	fds = append(fds, slow(t))
	if _, _, err := ends[0].WriteMsgUnix(message(VHOST_USER_GET_FEATURES, nil), unix.UnixRights(fds...), nil); err != nil {
		t.Fatal(err)
	}
	vhost.CloseFDs(fds...) // before the server reads: its thread has the last one
	h.server.sessions.Add(1)
	go func() {
		defer h.server.sessions.Done()
		h.server.door.serve(h.ctx, ends[1])
	}()
	h.eventually("the session reads", func() bool { return h.used(budget.Descriptors) == 2+MaxFDs })
	if !other.served(5 * time.Second) {
		t.Error("another session waits")
	}
	if d := h.stop(); d > stopTimeout+5*time.Second {
		t.Errorf("stopping took %v", d)
	}
	if !strings.Contains(h.log.String(), "left behind") || !strings.Contains(h.log.String(), "kernel closes descriptors") && !strings.Contains(h.log.String(), "first message") {
		t.Errorf("the log does not say what was left behind:\n%s", h.log)
	}
}

// stuck is a data plane that does not let go.
type stuck struct {
	fakeSwitch
	release chan struct{}
}

func (s *stuck) Connect(vhost.Connection) (vhost.Port, error) { return s, nil }
func (s *stuck) Close()                                       { <-s.release }

// TestClientModeEnds: also a session of the client mode that hangs is left behind.
func TestClientModeEnds(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log := &lockedLog{}
	sw := &stuck{release: make(chan struct{})}
	defer close(sw.release)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- Connect(ctx, Config{Path: path, Switch: sw, Options: vhost.Options{MaxQueuePairs: 1}, Log: slog.New(slog.NewTextHandler(log, nil))})
	}()
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	cancel()
	select {
	case err := <-done:
		if err != nil || !strings.Contains(log.String(), "closes its device") {
			t.Errorf("%v; log:\n%s", err, log)
		}
	case <-time.After(stopTimeout + 10*time.Second):
		t.Fatal("Connect does not end")
	}
}

// TestSilentConnection: who says nothing goes after a while, without having had a port; a named port is free then.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	h := newHost(t, "vm1", budget.New(plenty(), nil))
	idle := h.dial()
	idle.gone(firstMessage + 10*time.Second)
	if c := h.tally.Counts(); c.Refused[ReasonSilent] != 1 || c.Devices != 0 {
		t.Errorf("%+v", c)
	}
	if !h.dial().served(5 * time.Second) {
		t.Error("the port is not free")
	}
}

// TestOutOfDescriptors: where this process can have no more, the guest whose message lost one is not called an attacker.
func TestOutOfDescriptors(t *testing.T) {
	c := newSession(t)
	c.ask(VHOST_USER_GET_FEATURES, nil)
	event := eventfd(t)
	defer unix.Close(event)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	highest := 0
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for range list { // every number below the highest is in use from here on
		fd, err := unix.Dup(event)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		highest = max(highest, fd)
	}
	for fd := range highest {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			if err := unix.Dup3(event, fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
		}
	}
	low := old
	low.Cur = uint64(highest) + 1
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	c.send(VHOST_USER_SET_VRING_CALL, 0, u64s(0), event)
	ended := c.ended(5 * time.Second)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	c.close()
	if !ended || !strings.Contains(c.log.String(), "switchd has as many as it may") || strings.Contains(c.log.String(), ErrMessage.Error()) {
		t.Errorf("ended %v; log:\n%s", ended, c.log)
	}
}
