package host

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPeer: this process is at both ends.
func TestPeer(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	p, err := PeerOf(accepted)
	if want := (Peer{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid()}); err != nil || p != want {
		t.Fatalf("%+v, %v, want %+v", p, err, want)
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if got := p.Named().Comm; err != nil || got == "" || got != strings.TrimSpace(string(comm)) {
		t.Fatalf("named %q, want %q (%v)", got, comm, err)
	}
	accepted.Close()
	if p, err := PeerOf(accepted); err == nil || p != NoPeer() {
		t.Fatalf("of a closed socket: %+v, %v", p, err)
	}
	if n := NoPeer().Named(); n != NoPeer() {
		t.Fatalf("nobody has the name %q", n.Comm)
	}
}

// TestMaxSocketPath tries the limit and one more.
func TestMaxSocketPath(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for extra, good := range []bool{true, false} {
		l, err := net.Listen("unix", dir+"/"+strings.Repeat("x", MaxSocketPath-len(dir)-1+extra))
		if (err == nil) != good {
			t.Fatalf("%d bytes more than the limit: %v", extra, err)
		}
		if err == nil {
			l.Close()
		}
	}
}

func TestLoadModule(t *testing.T) {
	if err := LoadModule("vhostkit-no-such-module"); err == nil || !strings.Contains(err.Error(), "modprobe vhostkit-no-such-module") {
		t.Fatalf("LoadModule: %v", err)
	}
}
