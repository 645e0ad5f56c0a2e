package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
)

// slowBroker takes its time, and counts how many ask at once.
type slowBroker struct {
	Broker
	now, most atomic.Int64
}

func (s *slowBroker) Version() VersionInfo { return VersionInfo{Version: "test"} }

func (s *slowBroker) Plug(_ context.Context, name string, _ Peer) (Port, error) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	time.Sleep(10 * time.Millisecond)
	return Port{ID: -1, Name: name}, nil
}

type statusBackend struct{ Backend }

func (statusBackend) Version() VersionInfo { return VersionInfo{Version: "admin"} }

func books(t testing.TB) *budget.Budget {
	limits, err := budget.For(budget.Host{MaxMapCount: 65530, Descriptors: 65536, Memory: 1 << 30}, budget.Sizes{QueuePairs: 16})
	if err != nil {
		t.Fatal(err)
	}
	return budget.New(limits, nil)
}

func run(t testing.TB, server func(net.Listener) *Server) (string, *Server) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := server(l)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path, s
}

var quiet = slog.New(slog.DiscardHandler)

// TestManyGuestsStartAtOnce: 200 processes of one user that ask at the same time are an ordinary boot; each gets its port.
func TestManyGuestsStartAtOnce(t *testing.T) {
	b, asked := books(t), &slowBroker{}
	path, server := run(t, func(l net.Listener) *Server { return NewBrokerServer(l, asked, b, quiet) })
	var group sync.WaitGroup
	for i := range 200 {
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := NewBroker(path).Plug(context.Background(), fmt.Sprint("p", i)); err != nil {
				t.Error(err)
			}
		}()
	}
	group.Wait()
	if bound := int64(b.Limits()[budget.Requests].User); asked.most.Load() > bound {
		t.Errorf("%d at once, %d are allowed", asked.most.Load(), bound)
	}
	if s := server.Requests(); s.Accepted != 200 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	eventually(t, func() bool { return b.Usage()[budget.Requests].Used == 0 && b.Usage()[budget.Descriptors].Used == 0 })
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come true")
		}
	}
}

// TestIdleConnectionsAreBounded: connections that send nothing, or keep theirs after an answer, cost others neither descriptors nor their
// turn: never more are served than the budget says, and who asks gets an answer.
func TestIdleConnectionsAreBounded(t *testing.T) {
	b := books(t)
	path, _ := run(t, func(l net.Listener) *Server { return NewBrokerServer(l, &slowBroker{}, b, quiet) })
	for i := range 300 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			_, _ = c.Write([]byte("GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n"))
		}
	}
	if _, err := NewBroker(path).Plug(context.Background(), "innocent"); err != nil {
		t.Error(err)
	}
	if u := b.Usage()[budget.Requests]; u.Most > u.LimitPerUser {
		t.Errorf("%+v", u)
	}
	// Those that are silent are closed by and by.
	eventually(t, func() bool { return b.Usage()[budget.Descriptors].Used == 0 })
}

// TestAdministratorGetsIn: whatever fills the broker's socket, the control socket answers root and switchd's own user.
func TestAdministratorGetsIn(t *testing.T) {
	b := books(t)
	limits := b.Limits()[budget.Requests]
	for uid := range 10 { // as many users as it takes
		a := b.Open(1000+uid, false)
		for a.Take(budget.Requests, 1) == nil {
			if a = b.Open(1000+uid, false); b.Usage()[budget.Requests].Used == limits.Total {
				t.Fatal("no reserve")
			}
		}
	}
	if used := b.Usage()[budget.Requests].Used; used != limits.Total-limits.Reserve {
		t.Fatalf("%d of %+v used", used, limits)
	}
	path, _ := run(t, func(l net.Listener) *Server { return NewServer(l, statusBackend{}, b, quiet) })
	if v, err := NewClient(path).Version(context.Background()); err != nil || v.Version != "admin" {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestSlowDescriptorsOnTheBroker: descriptors that would take long to close do not reach the switch; where the kernel is too old to refuse
// them, the number of connections bounds them.
func TestSlowDescriptorsOnTheBroker(t *testing.T) {
	b := books(t)
	path, _ := run(t, func(l net.Listener) *Server { return NewBrokerServer(l, &slowBroker{}, b, quiet) })
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for range 200 {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _, err = c.WriteMsgUnix([]byte("G"), unix.UnixRights(int(null.Fd())), nil)
		if value, e := option(c); e == nil && value != 1 || errors.Is(e, unix.ENOPROTOOPT) {
			continue // the sender's own option tells whether the kernel knows it
		}
		if !errors.Is(err, unix.EPERM) {
			t.Fatalf("a descriptor was taken: %v", err)
		}
	}
	if u := b.Usage()[budget.Requests]; u.Most > u.LimitPerUser {
		t.Errorf("%+v", u)
	}
}

func option(c *net.UnixConn) (value int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	_ = raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS) })
	return value, err
}

// TestAcceptErrorsAreRetried: a moment without memory or descriptors is no end.
func TestAcceptErrorsAreRetried(t *testing.T) {
	path, _ := run(t, func(l net.Listener) *Server {
		return NewServer(&failing{Listener: l, errors: []error{unix.ENOMEM, unix.ENOBUFS, unix.EMFILE}}, statusBackend{}, nil, quiet)
	})
	if _, err := NewClient(path).Version(context.Background()); err != nil {
		t.Error(err)
	}
}

type failing struct {
	net.Listener
	errors []error
}

func (f *failing) Accept() (net.Conn, error) {
	if len(f.errors) > 0 {
		err := f.errors[0]
		f.errors = f.errors[1:]
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", err)}
	}
	return f.Listener.Accept()
}
