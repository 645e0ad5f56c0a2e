package user

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/vhost"
)

// lockedLog may be read while sessions write.
type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// host is a socket with a budget.
type host struct {
	t      *testing.T
	path   string
	budget *budget.Budget
	tally  *Tally
	log    *lockedLog
	sw     *manyPorts
	server *Server
	ctx    context.Context
	cancel context.CancelFunc
	done   chan error
}

// manyPorts gives each device a fakeSwitch of its own.
type manyPorts struct {
	mu    sync.Mutex
	ports []*fakeSwitch
}

func (m *manyPorts) Connect(c vhost.Connection) (vhost.Port, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &fakeSwitch{}
	m.ports = append(m.ports, s)
	return s.Connect(c)
}

func (m *manyPorts) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.ports)
}

// plenty are limits that nobody meets.
func plenty() (l budget.Limits) {
	for r := range l {
		l[r] = budget.Limit{Total: 1 << 50, User: 1 << 50, Account: 1 << 50}
	}
	return l
}

func newHost(t *testing.T, name string, b *budget.Budget) *host {
	t.Helper()
	h := &host{t: t, path: filepath.Join(t.TempDir(), "s"), budget: b, tally: &Tally{}, log: &lockedLog{}, sw: &manyPorts{}, done: make(chan error, 1)}
	s, err := Listen(Config{
		Path: h.path, Name: name, Switch: h.sw, Options: vhost.Options{MaxQueuePairs: 2}, Budget: h.budget, Tally: h.tally,
		Log: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.server, h.ctx, h.cancel = s, ctx, cancel
	go func() { h.done <- s.Serve(ctx) }()
	t.Cleanup(func() { h.stop() })
	return h
}

// stop ends the server, and gives how long that took.
func (h *host) stop() time.Duration {
	h.t.Helper()
	start := time.Now()
	h.cancel()
	select {
	case err := <-h.done:
		if err != nil {
			h.t.Error(err)
		}
		h.done <- nil
	case <-time.After(20 * time.Second):
		h.t.Fatal("the server does not end")
	}
	return time.Since(start)
}

func (h *host) dial() *client {
	h.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.path, Net: "unix"})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	return &client{t: h.t, conn: conn}
}

// served tells whether a connection is answered.
func (c *client) served(limit time.Duration) bool {
	c.t.Helper()
	c.send(VHOST_USER_GET_FEATURES, 0, nil)
	_ = c.conn.SetReadDeadline(time.Now().Add(limit))
	_, err := io.ReadFull(c.conn, make([]byte, headerSize+8))
	return err == nil
}

// gone waits for the end of the connection, and gives how long that took.
func (c *client) gone(limit time.Duration) time.Duration {
	c.t.Helper()
	start := time.Now()
	_ = c.conn.SetReadDeadline(start.Add(limit))
	if _, err := io.Copy(io.Discard, c.conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
		c.t.Errorf("the connection does not end within %v: %v", limit, err)
	}
	return time.Since(start)
}

func (h *host) eventually(what string, is func() bool) {
	h.t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("%s: not within 10 s; log:\n%s", what, h.log)
		}
	}
}

func (h *host) used(r budget.Resource) uint64 { return h.budget.Usage()[r].Used }

// clean waits until everything is given back but n connections with their descriptors.
func (h *host) clean(n uint64) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("everything but %d connections is given back", n), func() bool {
		for _, u := range h.budget.Usage() {
			want := uint64(0)
			if u.Resource == budget.Connections || u.Resource == budget.Descriptors {
				want = n
			}
			if u.Used != want {
				return false
			}
		}
		return true
	})
}

// TestIdleConnectionsTakeNoPort: however many connect and say nothing, the ports are for those who speak, and a named port for its guest.
func TestIdleConnectionsTakeNoPort(t *testing.T) {
	l := plenty()
	l[budget.Connections] = budget.Limit{Total: 20, Reserve: 4, User: 16, Account: 1}
	l[budget.Ports] = budget.Limit{Total: 20, Reserve: 4, User: 16, Account: 1}
	b := budget.New(l, nil)
	shared, named := newHost(t, "", b), newHost(t, "vm1", b)
	for range 30 {
		shared.dial()
	}
	shared.eventually("those who may not are refused", func() bool { return shared.tally.Counts().Refused[ReasonBudget] == 14 })
	if n := shared.used(budget.Ports); n != 0 || shared.sw.count() != 0 {
		t.Errorf("idle connections have %d ports", n)
	}
	if !named.dial().served(5 * time.Second) {
		t.Errorf("a named port's guest is not served; log:\n%s", named.log)
	}
	if n := strings.Count(shared.log.String(), "budget of connections"); n != 1 {
		t.Errorf("%d lines about 14 refused connections, want 1:\n%s", n, shared.log)
	}
}

// TestEverythingIsGivenBack: whatever a device has taken is counted while it has it, and only then.
func TestEverythingIsGivenBack(t *testing.T) {
	h := newHost(t, "", budget.New(plenty(), nil))
	c := h.dial()
	fd, event := memfd(t, 1<<16), eventfd(t)
	defer vhost.CloseFDs(fd, event)
	for range 20 {
		c.send(VHOST_USER_SET_MEM_TABLE, 0, append(u32s(1, 0), u64s(0, 1<<16, 1<<40, 0)...), fd)
		for i := range uint64(4) {
			c.send(VHOST_USER_SET_VRING_KICK, 0, u64s(i), event)
			c.send(VHOST_USER_SET_VRING_CALL, 0, u64s(i), event)
			c.send(VHOST_USER_SET_VRING_ERR, 0, u64s(i), event)
		}
		c.send(VHOST_USER_SET_BACKEND_REQ_FD, 0, nil, event)
		c.ask(VHOST_USER_GET_FEATURES, nil, event, fd) // nobody asked for these
	}
	c.ask(VHOST_USER_GET_FEATURES, nil)
	want := map[budget.Resource]uint64{
		budget.Ports: 1, budget.Connections: 1, budget.Descriptors: 1 + 4*2 + 1, budget.Mappings: 1, budget.AddressSpace: 1 << 16,
		budget.GuestMemory: 1 << 16,
	}
	h.eventually("a device's share is counted", func() bool {
		for r, n := range want {
			if h.used(r) != n {
				return false
			}
		}
		return true
	})
	c.conn.Close()
	h.clean(0)
}

// TestMemoryBeyondTheBudget: a table that is too large ends the connection with the reason; a region alone is refused.
func TestMemoryBeyondTheBudget(t *testing.T) {
	l := plenty()
	l[budget.AddressSpace] = budget.Limit{Total: 3 << 30, User: 3 << 30, Account: 2 << 30}
	l[budget.Mappings] = budget.Limit{Total: 100, User: 100, Account: 4}
	h := newHost(t, "", budget.New(l, nil))
	fd := memfd(t, 4<<30)
	defer unix.Close(fd)
	c := h.dial()
	c.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, u64s(1<<VHOST_USER_PROTOCOL_F_REPLY_ACK))
	for i := range uint64(6) {
		if r := c.tell(VHOST_USER_ADD_MEM_REG, u64s(0, i<<20, 4096, 1<<40+i<<20, 0), fd); (r != 0) != (i >= 4) {
			t.Errorf("region %d is answered with %d", i, r)
		}
	}
	if r := c.tell(VHOST_USER_ADD_MEM_REG, u64s(0, 1<<40, 4<<30, 1<<41, 0), fd); r == 0 {
		t.Error("4 GiB were mapped, 2 are allowed")
	}
	c.ask(VHOST_USER_GET_FEATURES, nil) // goes on
	large := h.dial()
	large.send(VHOST_USER_SET_MEM_TABLE, 0, append(u32s(1, 0), u64s(0, 4<<30, 1<<40, 0)...), fd)
	large.gone(5 * time.Second)
	if last := h.tally.Counts().Last; last == nil || last.Reason != ReasonBudget || !strings.Contains(last.Error, "address_space") {
		t.Errorf("%+v", last)
	}
	c.conn.Close()
	h.clean(0)
}

// TestSecondConnectionToANamedPort is refused with one line, is kept longer from time to time, and leaves its reason.
func TestSecondConnectionToANamedPort(t *testing.T) {
	h := newHost(t, "vm1", budget.New(plenty(), nil))
	first := h.dial()
	if !first.served(5 * time.Second) {
		t.Fatal("not served")
	}
	for i := range 4 {
		c := h.dial()
		c.send(VHOST_USER_GET_FEATURES, 0, nil)
		if d := c.gone(10 * time.Second); d < seatPatience {
			t.Errorf("connection %d was closed after %v", i, d)
		}
	}
	counts := h.tally.Counts()
	if counts.Refused[ReasonInUse] != 4 || counts.Accepted != 5 || counts.Devices != 1 || counts.Last == nil ||
		!strings.Contains(counts.Last.Error, `port "vm1" is in use`) {
		t.Errorf("%+v %+v", counts, counts.Last)
	}
	if n := strings.Count(h.log.String(), "in use"); n != 1 {
		t.Errorf("%d lines, want 1:\n%s", n, h.log)
	}
	first.conn.Close()
	second := h.dial() // does not have to wait for the first one's end
	if !second.served(5 * time.Second) {
		t.Errorf("the port is not free again; log:\n%s", h.log)
	}
}

// TestFrontEndThatComesBack: one that cannot be served and connects at once again is slowed down and does not fill the log.
func TestFrontEndThatComesBack(t *testing.T) {
	h := newHost(t, "", budget.New(plenty(), nil))
	var total time.Duration
	for i := range 6 {
		c := h.dial()
		c.send(VHOST_USER_SET_FEATURES, 0, make([]byte, 3))
		d := c.gone(10 * time.Second)
		if total += d; d < firstDelay/2 {
			t.Errorf("connection %d was closed after %v", i, d)
		}
	}
	// 100, 150, 225, 337, 506, 759 ms, about.
	if total < 1500*time.Millisecond {
		t.Errorf("6 connections were kept for %v in all", total)
	}
	if n := strings.Count(h.log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d lines about one reason, want 1:\n%s", n, h.log)
	}
	if n := h.tally.Counts().Refused[ReasonFailed]; n != 6 {
		t.Errorf("%d are counted, want 6", n)
	}
	if !h.dial().served(5 * time.Second) {
		t.Error("nobody is served any more")
	}
}

// TestConnectAndClose: connections that say nothing write nothing.
func TestConnectAndClose(t *testing.T) {
	h := newHost(t, "", budget.New(plenty(), nil))
	for range 200 {
		h.dial().conn.Close()
	}
	h.eventually("all have come", func() bool { return h.tally.Counts().Accepted == 200 })
	h.clean(0)
	if n := strings.Count(h.log.String(), "\n"); n != 0 {
		t.Errorf("%d lines:\n%s", n, h.log)
	}
}

// TestComingAndGoing: a process that connects, says something and goes, without end, is served ever more slowly, and so is nobody else.
func TestComingAndGoing(t *testing.T) {
	var p paces
	now := time.Now()
	hostile, innocent := vhost.Peer{UID: 1, PID: 10}, vhost.Peer{UID: 1, PID: 11}
	for i := range freeVisits {
		if d := p.wait(hostile, now); d != 0 {
			t.Fatalf("visit %d waits %v", i, d)
		}
		p.left(hostile, now, time.Millisecond)
	}
	last := time.Duration(0)
	for range 12 {
		d := p.wait(hostile, now)
		if d < firstDelay || d < last || d > lastDelay {
			t.Errorf("waits %v after %v", d, last)
		}
		last = d
	}
	if last != lastDelay {
		t.Errorf("waits %v in the end, want %v", last, lastDelay)
	}
	p.left(innocent, now, time.Millisecond)
	if d := p.wait(innocent, now); d != 0 {
		t.Errorf("another process waits %v", d)
	}
	if d := p.wait(hostile, now.Add(time.Minute)); d != 0 {
		t.Errorf("after a minute it still waits %v", d)
	}
}
