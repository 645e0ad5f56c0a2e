package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"vhostkit/switchd/config"
	"vhostkit/switchd/control"
)

// TestReload: what the table calls reloadable takes effect, the rest is named, each time; what is on the command line only is not.
func TestReload(t *testing.T) {
	b := brokerDaemon(t, nil)
	var log bytes.Buffer
	b.log = slog.New(slog.NewTextHandler(&log, nil))
	ctx := context.Background()
	if _, err := b.OpenDevice(ctx, "/dev/null", control.Peer{}); !errors.Is(err, control.ErrForbidden) {
		t.Fatalf("a device that nobody named: %v", err)
	}
	next := b.configured
	next.Devices, next.Stats, next.VM2VM, next.CPUProfile = []string{"/dev/null"}, 7, 0, "x"
	for range 2 {
		log.Reset()
		b.Reload(next)
		if text := log.String(); strings.Count(text, "restart required for this setting") != 1 || !strings.Contains(text, "setting=vm2vm") ||
			!strings.Contains(text, "configuration reloaded") {
			t.Errorf("the log says:\n%s", text)
		}
	}
	f, err := b.OpenDevice(ctx, "/dev/null", control.Peer{})
	if err != nil {
		t.Fatalf("a device after the reload: %v", err)
	}
	f.Close()
	if every := <-b.statsEvery; every != 7 {
		t.Errorf("statistics every %d s, want 7", every)
	}
}

// TestReloadableSettings: by hand, because the table must not check itself.
func TestReloadableSettings(t *testing.T) {
	var names []string
	for _, o := range config.Options() {
		if o.Reloadable {
			names = append(names, o.Name)
		}
	}
	if got := strings.Join(names, " "); got != "device stats log-level" {
		t.Errorf("reloadable: %s", got)
	}
}
