package user

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"vhostkit/switchd/unixsocket"
	"vhostkit/switchd/vhost"
)

func TestServerReplacesStaleSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	config := Config{
		Path: path, Switch: &fakeSwitch{}, Options: vhost.Options{MaxQueuePairs: 1}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Access: unixsocket.Access{Mode: 0o600},
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

// TestConnectAgain: in client mode a device waits for its front-end, and comes back when the front-end does.
func TestConnectAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Connect(ctx, Config{
			Path: path, Switch: &fakeSwitch{}, Options: vhost.Options{MaxQueuePairs: 1}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
	}()
	for round := range 3 {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		_ = l.SetDeadline(time.Now().Add(10 * time.Second))
		conn, err := l.AcceptUnix()
		if err != nil {
			t.Fatalf("round %d: nobody connects: %v", round, err)
		}
		c := &client{t: t, conn: conn}
		c.ask(VHOST_USER_GET_FEATURES, nil)
		if round < 2 {
			conn.Close()
		} else {
			defer conn.Close() // the last is ended from the switch's side
		}
		l.Close() // removes the file too
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Connect does not end with its context")
	}
}

// refusing is a switch without room.
type refusing struct{ connects atomic.Int32 }

func (r *refusing) Connect(vhost.Connection) (vhost.Port, error) {
	r.connects.Add(1)
	return nil, errors.New("no room")
}

// TestConnectIsPatient: a front-end that listens, but whose device is refused each time, is not tried without pause.
func TestConnectIsPatient(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sw := &refusing{}
	ctx, cancel := context.WithTimeout(context.Background(), 2500*time.Millisecond)
	defer cancel()
	err = Connect(ctx, Config{
		Path: path, Switch: sw, Options: vhost.Options{MaxQueuePairs: 1}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	// After 0, 0.1, 0.3, 0.7, 1.5 s, then each second.
	if n := sw.connects.Load(); n < 2 || n > 6 {
		t.Errorf("%d connections within 2.5 s, want about 5", n)
	}
}
