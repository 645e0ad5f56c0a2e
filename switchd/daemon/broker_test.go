package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/config"
	"vhostkit/switchd/control"
)

// rig is a daemon and its broker.
type rig struct {
	*Daemon
	broker
}

// brokerDaemon is a daemon that serves nothing yet but can open ports.
func brokerDaemon(t *testing.T, change func(*config.Config)) rig {
	t.Helper()
	dir := t.TempDir()
	c := config.DefaultConfig()
	c.SocketDir, c.StateDir, c.ControlSocket = filepath.Join(dir, "ports"), dir, filepath.Join(dir, "c.sock")
	if change != nil {
		change(&c)
	}
	d, err := New(c, silent(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.closeSockets(time.Now().Add(10 * time.Second)) })
	return rig{d, d.newBroker()}
}

func TestPlug(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: sockets for other users cannot be made; the callers are this user")
	}
	ctx := context.Background()
	me, other := control.Peer{UID: os.Geteuid(), GID: os.Getegid()}, control.Peer{UID: 64055, GID: 109}
	if os.Geteuid() == 0 {
		me = control.Peer{UID: 64056, GID: 110}
	}
	b := brokerDaemon(t, nil)
	p, err := b.Plug(ctx, "vm1-net0", me)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(p.Socket, &st); err != nil || int(st.Uid) != me.UID || int(st.Gid) != me.GID || st.Mode&0o777 != 0o660 {
		t.Errorf("socket has owner %d:%d mode %o (%v), want %d:%d 660", st.Uid, st.Gid, st.Mode&0o777, err, me.UID, me.GID)
	}
	if again, err := b.Plug(ctx, "vm1-net0", me); err != nil || again.Socket != p.Socket {
		t.Errorf("the same port again: %+v, %v", again, err)
	}
	if _, err := b.Plug(ctx, "vm1-net0", other); !errors.Is(err, control.ErrForbidden) {
		t.Errorf("another user's port: %v", err)
	}
	if _, err := b.Plug(ctx, "../etc", me); !errors.Is(err, control.ErrBadRequest) {
		t.Errorf("a name that is a path: %v", err)
	}
	// An administrator's port without an owner: the socket's mode decides who connects.
	if _, err := b.AddPort(ctx, control.AddPortRequest{Name: "shared"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Plug(ctx, "shared", other); err != nil {
		t.Errorf("a port without an owner: %v", err)
	}
	// All of it is remembered.
	data, err := os.ReadFile(b.portsPath())
	if err != nil {
		t.Fatal(err)
	}
	var file portsFile
	if err := json.Unmarshal(data, &file); err != nil || len(file.Ports) != 2 {
		t.Fatalf("remembered %s (%v)", data, err)
	}
	if n := file.Ports[1]; n.Name != "vm1-net0" || n.UID == nil || *n.UID != me.UID || n.Asked == nil {
		t.Errorf("remembered %s", data)
	}
}

func TestPortsFileOfNames(t *testing.T) {
	var file portsFile
	if err := json.Unmarshal([]byte(`{"ports": ["vm1", {"name": "vm2", "uid": 5}]}`), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Ports) != 2 || file.Ports[0].Name != "vm1" || file.Ports[1].Name != "vm2" || *file.Ports[1].UID != 5 {
		t.Errorf("read %+v", file.Ports)
	}
}

func TestPlugIsBounded(t *testing.T) {
	b := brokerDaemon(t, nil)
	b.askLimit = askLimit{User: 3, Total: 4}
	me, other := os.Geteuid(), os.Geteuid()+1
	add := func(name string, uid int) *namedState {
		n := &namedState{namedPort: namedPort{Name: name, Asked: &uid}, ready: make(chan struct{}), since: time.Now()}
		close(n.ready)
		b.named[name] = n
		return n
	}
	plug := func(name string) error {
		_, err := b.Plug(context.Background(), name, control.Peer{UID: me, GID: os.Getegid()})
		return err
	}
	mine := add("a", me)
	add("b", me)
	add("c", me)
	if err := plug("more"); !errors.Is(err, control.ErrForbidden) {
		t.Errorf("more than a user's share: %v", err)
	}
	// One that no device uses makes room, but not while it is new.
	mine.since = time.Now().Add(-2 * youngest)
	if err := plug("more"); err != nil || b.named["a"] != nil {
		t.Errorf("an unused port does not make room: %v", err)
	}
	delete(b.named, "b")
	add("x", other)
	add("y", other)
	if err := plug("again"); !errors.Is(err, control.ErrForbidden) {
		t.Errorf("more than all may have: %v", err)
	}
}

func TestOpenDevice(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := brokerDaemon(t, func(c *config.Config) { c.Devices = []string{"/dev/null", "/dev/no-such-device", "/dev/shm"} })
	f, err := b.OpenDevice(context.Background(), "/dev/null", control.Peer{})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for path, want := range map[string]error{
		"/dev/zero": control.ErrForbidden, "/dev/../etc/passwd": control.ErrForbidden, "/dev/no-such-device": control.ErrNotFound, file: control.ErrForbidden,
	} {
		if _, err := b.OpenDevice(context.Background(), path, control.Peer{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if _, err := b.OpenDevice(context.Background(), "/dev/shm", control.Peer{}); err == nil {
		t.Error("a directory was opened as a device")
	}
}
