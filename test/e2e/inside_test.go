package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/test/guest"
	"vhostkit/test/internal/proc"
)

// testProgram builds a static program of the tests' own for guests.
func testProgram(ctx context.Context, t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(name))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "vhostkit/test/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return path
}

// hostRun runs one of this project's or this machine's programs in the guest.
func hostRun(ctx context.Context, t *testing.T, g *guest.Guest, argv ...string) string {
	t.Helper()
	return g.MustRun(ctx, t, append([]string{"chroot", "/host"}, argv...)...)
}

// guestSwitch is a switch inside a guest.
type guestSwitch struct {
	*guest.Process
	g    *guest.Guest
	said strings.Builder
}

// messages gives all that it has printed since it started, while Output takes away what it gives.
func (s *guestSwitch) messages(ctx context.Context) (text string, running bool, err error) {
	res, running, err := s.Output(ctx)
	s.said.WriteString(res.Stdout + res.Stderr)
	return s.said.String(), running, err
}

const (
	guestControl = "/tmp/control.sock"
	guestSocket  = "/tmp/vhost.sock"
)

// startGuestSwitch starts it as root.
func startGuestSwitch(ctx context.Context, t *testing.T, g *guest.Guest, args ...string) *guestSwitch {
	t.Helper()
	return startGuestSwitchBy(ctx, t, g, "", args...)
}

// startGuestSwitchBy starts it by a command, such as one that gives up rights.
func startGuestSwitchBy(ctx context.Context, t *testing.T, g *guest.Guest, by string, args ...string) *guestSwitch {
	t.Helper()
	argv := append([]string{"chroot", "/host", "/bin/sh", "-c", `cd /tmp && exec ` + by + ` ./switchd "$@"`, "switchd", "--control", guestControl, "--state-dir", "/tmp", "--socket-dir", "/tmp/ports",
		"--socket-file", guestSocket}, args...)
	p, err := g.Background(ctx, argv...)
	if err != nil {
		t.Fatal(err)
	}
	s := &guestSwitch{Process: p, g: g}
	t.Cleanup(func() {
		if t.Failed() {
			if text, _, err := s.messages(context.Background()); err == nil {
				t.Logf("switchd in the guest:\n%s", proc.Tail(text, 40))
			}
			_ = p.Signal(context.Background(), syscall.SIGKILL)
		}
	})
	eventually(t, time.Minute, "switchd answers in the guest", func() bool {
		if text, running, err := s.messages(ctx); err != nil || !running {
			t.Fatalf("switchd ended: %v\n%s", err, text)
		}
		_, err := s.stats(ctx)
		return err == nil
	})
	return s
}

func (s *guestSwitch) stats(ctx context.Context) (control.Stats, error) {
	var st control.Stats
	out, err := s.g.Output(ctx, "chroot", "/host", "/tmp/vhostctl", "--control", guestControl, "stats", "-o", "json")
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal([]byte(out), &st)
}

func (s *guestSwitch) stop(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := s.Signal(ctx, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if res, err := s.Wait(ctx); err != nil || res.Exit != 0 {
		t.Errorf("switchd ended with %d, %v:\n%s%s", res.Exit, err, res.Stdout, res.Stderr)
	}
}

// What is pinged, and with how many bytes.
const (
	echoes, largest = 100, 1450
)

// guestPings lets a front-end in the guest find an address and ping it: it gives who has the address.
func guestPings(ctx context.Context, t *testing.T, g *guest.Guest, peer string, options ...string) string {
	t.Helper()
	out := hostRun(ctx, t, g, append([]string{"/tmp/pinger", "--socket", guestSocket, "--mac", "02:00:00:00:00:01", "--ip", "10.0.0.1", "--peer", peer,
		"--count", fmt.Sprint(echoes), "--largest", fmt.Sprint(largest)}, options...)...)
	if !strings.Contains(out, fmt.Sprintf("answers to %d echo requests", echoes)) {
		t.Errorf("pinger: %s", out)
	}
	_, found, _ := strings.Cut(out, "found "+peer+" at ")
	found, _, _ = strings.Cut(found, "\n")
	return found
}
