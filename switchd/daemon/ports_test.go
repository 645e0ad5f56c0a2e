package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"vhostkit/switchd/config"
	"vhostkit/switchd/control"
	"vhostkit/switchd/vhost"
)

// hang makes a named port's socket one that does not end, as a session that the kernel holds up.
func hang(t *testing.T, b rig, name string) (end func()) {
	t.Helper()
	if _, err := b.AddPort(context.Background(), control.AddPortRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	s := b.sockets[b.socketOf(name)]
	stuck := &socket{path: s.path, name: name, cancel: s.cancel, done: make(chan struct{})}
	b.sockets[s.path] = stuck
	b.mu.Unlock()
	end = sync.OnceFunc(func() { close(stuck.done) })
	t.Cleanup(end)
	return end
}

// TestRemovalWaitsForNobody: a device that does not end holds up neither its port's removal for good, nor anything else meanwhile.
func TestRemovalWaitsForNobody(t *testing.T) {
	b := brokerDaemon(t, nil)
	ctx, me := context.Background(), control.Peer{UID: os.Geteuid(), GID: os.Getegid()}
	hang(t, b, "evil")
	evil, err := b.Connect(vhost.Connection{Name: "evil", Fail: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	removed := make(chan error, 1)
	go func() { removed <- b.RemovePort(ctx, "evil") }()
	for { // it waits now
		b.mu.Lock()
		gone := b.named["evil"] == nil
		b.mu.Unlock()
		if gone {
			break
		}
		time.Sleep(time.Millisecond)
	}
	others := make(chan error, 1)
	go func() {
		_, add := b.AddPort(ctx, control.AddPortRequest{Name: "innocent"})
		_, plug := b.Plug(ctx, "vm9", me)
		others <- errors.Join(add, plug)
	}()
	select {
	case err := <-others:
		if err != nil {
			t.Error(err)
		}
	case <-removed:
		t.Error("the others wait for the removal")
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
	// The name is free, although the old device is still there.
	if _, err := b.AddPort(ctx, control.AddPortRequest{Name: "evil"}); err != nil {
		t.Error(err)
	}
	again, err := b.Connect(vhost.Connection{Name: "evil", Fail: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	evil.Close() // the old one's end does not touch the new one
	if _, err := b.Connect(vhost.Connection{Name: "evil", Fail: func(error) {}}); err == nil {
		t.Error("two devices on a named port")
	}
	again.Close()
}

// TestSocketsEndTogether: the deadline is for all of them, not for each.
func TestSocketsEndTogether(t *testing.T) {
	b := brokerDaemon(t, nil)
	var ends []func()
	for i := range 20 {
		ends = append(ends, hang(t, b, fmt.Sprint("p", i)))
	}
	start := time.Now()
	if b.closeSockets(start.Add(200 * time.Millisecond)) {
		t.Error("all have ended?")
	}
	if took := time.Since(start); took > 2*time.Second { // 4 s, were each waited for
		t.Errorf("took %v", took)
	}
	for _, end := range ends {
		end()
	}
	if !b.closeSockets(time.Now().Add(20 * time.Second)) {
		t.Error("they have not ended")
	}
}

// TestUnusedPortsExpire: those that a QEMU asked for, not the administrator's, and none that has a device.
func TestUnusedPortsExpire(t *testing.T) {
	b := brokerDaemon(t, nil)
	ctx, me := context.Background(), control.Peer{UID: os.Geteuid(), GID: os.Getegid()}
	for _, name := range []string{"never", "connected", "used"} {
		if _, err := b.Plug(ctx, name, me); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.AddPort(ctx, control.AddPortRequest{Name: "admins"}); err != nil {
		t.Fatal(err)
	}
	p, err := b.Connect(vhost.Connection{Name: "connected", Fail: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	used, err := b.Connect(vhost.Connection{Name: "used", Fail: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	used.Close()
	there := func(after time.Duration, want ...string) {
		t.Helper()
		b.expirePorts(time.Now().Add(after))
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.named) != len(want) {
			t.Errorf("after %v there are %d ports, want %v", after, len(b.named), want)
		}
		for _, name := range want {
			if b.named[name] == nil {
				t.Errorf("after %v %s has gone", after, name)
			}
		}
	}
	there(neverUsed/2, "never", "connected", "used", "admins")
	there(neverUsed+time.Minute, "connected", "used", "admins")
	there(unused+time.Hour, "connected", "admins")
	p.Close()
	there(unused+time.Hour, "admins")
	if again, err := b.Plug(ctx, "never", me); err != nil || again.Name != "never" {
		t.Errorf("a guest that starts again: %+v, %v", again, err)
	}
}

// TestManyPlugsAtOnce: names that are asked for twice are made once, and all are remembered.
func TestManyPlugsAtOnce(t *testing.T) {
	b := brokerDaemon(t, nil)
	var group sync.WaitGroup
	for i := range 200 {
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := b.Plug(context.Background(), fmt.Sprint("p", i/2), control.Peer{UID: os.Geteuid(), GID: os.Getegid()}); err != nil {
				t.Error(err)
			}
		}()
	}
	group.Wait()
	next := brokerDaemon(t, func(c *config.Config) {
		c.SocketDir, c.StateDir = filepath.Join(t.TempDir(), "ports"), b.config.StateDir
	})
	if err := next.restorePorts(); err != nil || len(next.named) != 100 {
		t.Errorf("%d ports remembered, %v", len(next.named), err)
	}
}

// TestNoSocketAfterTheEnd: a port that somebody adds while the switch stops does not keep its socket.
func TestNoSocketAfterTheEnd(t *testing.T) {
	b := brokerDaemon(t, nil)
	if !b.closeSockets(time.Now().Add(10 * time.Second)) {
		t.Fatal("the sockets do not end")
	}
	if _, err := b.AddPort(context.Background(), control.AddPortRequest{Name: "late"}); err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	s := b.sockets[b.socketOf("late")]
	b.mu.Unlock()
	if !s.waitFor(time.Now().Add(10 * time.Second)) {
		t.Error("a socket opened after the end is served")
	}
}
