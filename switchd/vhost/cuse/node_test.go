package cuse

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"log/slog"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/unixsocket"
)

// fakeNode is a node in directories of the test's own. /dev/null's number stands for the device's: 1:3.
func fakeNode(t *testing.T) node {
	t.Helper()
	dir := t.TempDir()
	n := node{path: filepath.Join(dir, "dev", "usvhost"), class: filepath.Join(dir, "class"), chars: filepath.Join(dir, "char")}
	for _, d := range []string{filepath.Dir(n.path), n.class, n.chars} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// register has the kernel know the device.
func (n node) register(t *testing.T) {
	t.Helper()
	dir := filepath.Join(n.class, filepath.Base(n.path))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dev"), []byte("1:3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making device nodes takes root")
	}
}

func TestPrepare(t *testing.T) {
	n := fakeNode(t)
	if err := n.prepare(); err != nil {
		t.Errorf("a free name: %v", err)
	}
	if err := os.WriteFile(n.path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := n.prepare(); err == nil || !strings.Contains(err.Error(), "no character device") {
		t.Errorf("a file: %v", err)
	}
	n.register(t)
	if err := n.prepare(); err == nil || !strings.Contains(err.Error(), "served already") {
		t.Errorf("another server: %v", err)
	}
}

func TestStaleNode(t *testing.T) {
	needRoot(t)
	n := fakeNode(t)
	if err := makeNode(n.path, unix.Mkdev(10, 238), 0o600); err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(n.chars, "10:238")
	if err := os.Mkdir(known, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := n.prepare(); err == nil || !strings.Contains(err.Error(), "kernel's (10:238)") {
		t.Errorf("a device of the kernel's: %v", err)
	}
	if err := os.Remove(known); err != nil {
		t.Fatal(err)
	}
	if err := n.prepare(); err != nil {
		t.Errorf("a stale node: %v", err)
	}
	if _, err := os.Lstat(n.path); !os.IsNotExist(err) {
		t.Errorf("the stale node: %v", err)
	}
}

// TestPublish: without devtmpfs, with a stale node, and with the kernel's own.
func TestPublish(t *testing.T) {
	needRoot(t)
	for name, before := range map[string]uint64{"no devtmpfs": 0, "stale": unix.Mkdev(1, 5), "made by the kernel": unix.Mkdev(1, 3)} {
		n := fakeNode(t)
		if err := n.publish(unixsocket.Access{}); err == nil || !strings.Contains(err.Error(), "did not take the name") {
			t.Errorf("%s: before the device is there: %v", name, err)
		}
		n.register(t)
		if before != 0 {
			if err := makeNode(n.path, before, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.publish(unixsocket.Access{Group: "7", Mode: 0o660}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if is, want := n.describe(t), "c 1:3 0:7 0660"; is != want {
			t.Errorf("%s: node %s, want %s", name, is, want)
		}
		n.remove(unix.Mkdev(1, 5))
		n.describe(t) // is another's, so it stays
		n.remove(unix.Mkdev(1, 3))
		if _, err := os.Lstat(n.path); !os.IsNotExist(err) {
			t.Errorf("%s: after remove: %v", name, err)
		}
	}
}

func (n node) describe(t *testing.T) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(n.path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "no character device"
	}
	return fmt.Sprintf("c %d:%d %d:%d %04o", unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Uid, st.Gid, st.Mode&0o7777)
}

// TestKeepPermitted: udev gives the node to root alone; the administrator gives it to somebody.
func TestKeepPermitted(t *testing.T) {
	needRoot(t)
	n := fakeNode(t)
	n.register(t)
	access := unixsocket.Access{Group: "7", Mode: 0o660}
	if err := n.publish(access); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(n.path, 0o640); err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		n.keepPermitted(access, done, slog.New(slog.DiscardHandler))
	}()
	time.Sleep(200 * time.Millisecond) // longer than the first look
	if is := n.describe(t); is != "c 1:3 0:7 0640" {
		t.Errorf("after the administrator: %s", is)
	}
	if err := unix.Lchown(n.path, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(n.path, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node is as configured again", func() bool { return n.describe(t) == "c 1:3 0:7 0660" })
	close(done)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("keepPermitted does not end")
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"usvhost": true, "vhost-net": true, "a.1_b": true, "": false, "..": false, "a/b": false, "a b": false, "-x": false, "a\x00": false,
		strings.Repeat("x", 64): false,
	} {
		if ValidName(name) != want {
			t.Errorf("%q: want %v", name, want)
		}
	}
	if _, err := Open(Config{Name: "../x"}); err == nil {
		t.Error("a device outside of /dev")
	}
}
