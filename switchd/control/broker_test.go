package control_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/control"
	"vhostkit/switchd/unixsocket"
)

// fakeBroker knows one device and remembers who called.
type fakeBroker struct {
	fakeBackend
	file   string
	caller control.Peer
}

func (f *fakeBroker) Plug(_ context.Context, name string, caller control.Peer) (control.Port, error) {
	f.caller = caller
	if name == "theirs" {
		return control.Port{}, fmt.Errorf("%w: theirs", control.ErrForbidden)
	}
	return control.Port{ID: -1, Name: name, Socket: "/run/" + name + ".sock"}, nil
}

func (f *fakeBroker) OpenDevice(_ context.Context, path string, _ control.Peer) (*os.File, error) {
	if path != "/dev/known" {
		return nil, fmt.Errorf("%w: %s", control.ErrForbidden, path)
	}
	return os.Open(f.file)
}

func TestBroker(t *testing.T) {
	dir := t.TempDir()
	b := &fakeBroker{file: filepath.Join(dir, "file")}
	if err := os.WriteFile(b.file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "qemu.sock")
	l, err := unixsocket.Listen(path, unixsocket.Access{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() { done <- control.NewBrokerServer(l, b, nil, slog.New(slog.DiscardHandler)).Serve(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	c := control.NewBroker(path)
	if p, err := c.Plug(ctx, "vm1-net0"); err != nil || p.Socket != "/run/vm1-net0.sock" {
		t.Fatalf("Plug: %+v, %v", p, err)
	}
	if b.caller.PID != os.Getpid() || b.caller.UID != os.Getuid() {
		t.Errorf("caller is %+v, want this process", b.caller)
	}
	var remote *control.RemoteError
	if _, err := c.Plug(ctx, "theirs"); !errors.As(err, &remote) || remote.Status != http.StatusForbidden {
		t.Errorf("Plug of another's port: %v", err)
	}
	fd, err := c.OpenDevice(ctx, "/dev/known")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	data := make([]byte, 16)
	if n, err := unix.Read(fd, data); err != nil || string(data[:n]) != "content" {
		t.Fatalf("the descriptor reads %q, %v", data[:max(n, 0)], err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		t.Errorf("the descriptor does not survive exec: flags %#x, %v", flags, err)
	}
	if _, err := c.OpenDevice(ctx, "/etc/shadow"); !errors.As(err, &remote) || remote.Status != http.StatusForbidden {
		t.Errorf("OpenDevice of what was not named: %v", err)
	}
	// What the control socket serves is not here.
	if _, err := control.NewClient(path).Ports(ctx); !errors.As(err, &remote) || remote.Status != http.StatusNotFound {
		t.Errorf("ports on QEMU's socket: %v", err)
	}
	if _, err := control.NewBroker(filepath.Join(dir, "nobody.sock")).OpenDevice(ctx, "/dev/known"); !errors.Is(err, control.ErrUnreachable) {
		t.Errorf("OpenDevice without a switchd: %v", err)
	}
}
