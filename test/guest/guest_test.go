package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vhostkit/test/guest/proto"
)

// start boots a guest for a test and ends it with the test.
func start(t *testing.T, cfg Config) *Guest {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
	defer cancel()
	g, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Kill)
	return g
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func TestGuestBootsAndRunsCommands(t *testing.T) {
	g := start(t, Config{Name: "alone", HostRoot: true})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	if out := g.MustRun(ctx, t, "cat", "/proc/sys/kernel/ostype"); out != "Linux\n" {
		t.Errorf("ostype = %q", out)
	}
	r, err := g.RunInput(ctx, []byte("in"), "sh", "-c", "cat; echo err >&2; exit 3")
	if err != nil || r.Exit != 3 || r.Stdout != "in" || r.Stderr != "err\n" {
		t.Errorf("RunInput = %+v, %v", r, err)
	}
	short, cancelShort := context.WithTimeout(ctx, time.Second)
	defer cancelShort()
	if r, err := g.Run(short, "sh", "-c", "echo before; sleep 100"); err == nil || r.Stdout != "before\n" {
		t.Errorf("a command over its time: %+v, %v", r, err)
	}
	if _, err := g.Run(ctx, "/no/such/program"); err == nil {
		t.Error("a program that does not exist ran")
	}

	p, err := g.Background(ctx, "sh", "-c", "read x; echo got $x; sleep 100")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Write(ctx, "word\n"); err != nil {
		t.Error(err)
	}
	if _, err := p.Expect(ctx, "got word"); err != nil {
		t.Error(err)
	}
	if err := p.Signal(ctx, 15); err != nil {
		t.Error(err)
	}
	if r, err := p.Wait(ctx); err != nil || r.Exit != 128+15 {
		t.Errorf("Wait = %+v, %v", r, err)
	}

	if err := g.MountHost(ctx); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	if out := g.MustRun(ctx, t, "chroot", "/host", "cat", "/etc/os-release"); out != string(want) {
		t.Errorf("the host's file through 9p: %q", out)
	}
	if _, err := g.Output(ctx, "touch", "/host/var/tmp/written"); err == nil {
		t.Error("the guest can write to the host's root")
	}

	sent, received, err := Exchange(ctx, g, g, "127.0.0.1", 5001, 10<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("sent %+v, received %+v", sent, received)

	if err := g.Stop(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.dir); !os.IsNotExist(err) {
		t.Errorf("the guest's directory is still there: %v", err)
	}
}

func TestStartTellsWhatQEMUSaid(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	_, err := Start(ctx, Config{Name: "bad", QEMUArgs: []string{"-device", "no-such-device"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-device") {
		t.Errorf("Start = %v", err)
	}
}

// Two guests on one of QEMU's own cables: the network part of the rig without the switch.
func TestTwoGuestsExchange(t *testing.T) {
	wire := filepath.Join(t.TempDir(), "wire")
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
	defer cancel()
	var guests []*Guest
	for i, role := range []string{"on", "off"} {
		g := start(t, Config{
			Name: "guest" + strconv.Itoa(i+1),
			NICs: []NIC{{Netdev: "stream,addr.type=unix,addr.path=" + wire + ",server=" + role}},
		})
		g.MustRun(ctx, t, "sh", "-ec", fmt.Sprintf("ip link set eth0 addr 52:54:00:00:00:%02x up; ip addr add 10.0.0.%d/24 dev eth0", i+1, i+1))
		if out := g.MustRun(ctx, t, "readlink", "-f", "/sys/class/net/eth0/device"); !strings.Contains(out, PCIAddress(0)) {
			t.Errorf("eth0 is not at %s but %s", PCIAddress(0), out)
		}
		guests = append(guests, g)
	}
	guests[0].MustRun(ctx, t, "ping", "-c", "2", "-i", "0.2", "10.0.0.2")
	sent, received, err := Exchange(ctx, guests[0], guests[1], "10.0.0.2", 5001, 20<<20, 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("20 MiB in %.2f s", received.Seconds)
	// The bytes are known, so that a transfer of zeros would be found out.
	want := sha256.New()
	data := make([]byte, 20<<20)
	proto.NewRandom(7).Fill(data)
	want.Write(data)
	if sum := hex.EncodeToString(want.Sum(nil)); sent.SHA256 != sum {
		t.Errorf("sent %s, want %s", sent.SHA256, sum)
	}
}
