package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vhostkit/switchd/config"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/tap"
	"vhostkit/test/nic82599"
)

// machine is one with these PCI devices: "vendor:device driver" by address.
func machine(t *testing.T, devices map[string]string) pci.Host {
	t.Helper()
	h := pci.Host{Sys: t.TempDir(), Proc: t.TempDir(), Addresses: func(string) []string { return nil }}
	if err := os.MkdirAll(filepath.Join(h.Sys, "bus/pci/devices"), 0o755); err != nil {
		t.Fatal(err)
	}
	for address, text := range devices {
		ids, driver, _ := strings.Cut(text, " ")
		vendor, device, _ := strings.Cut(ids, ":")
		dir := filepath.Join(h.Sys, "bus/pci/devices", address)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"class": "0x020000", "vendor": "0x" + vendor, "device": "0x" + device} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if driver != "" {
			if err := os.Symlink("../../drivers/"+driver, filepath.Join(dir, "driver")); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

// TestChooseNIC: -p counts the 82599s that are bound to a driver for user space, in the order of their addresses, and nothing else.
func TestChooseNIC(t *testing.T) {
	none := map[string]string{
		"0000:01:00.0": "8086:10fb ixgbe", "0000:02:00.0": "1af4:1000 vfio-pci", "0000:02:00.1": "8086:10fb", "0000:02:00.2": "8086:1521 uio_pci_generic",
	}
	one := map[string]string{"0000:01:00.0": "8086:10fb ixgbe", "0000:02:00.0": "1af4:1000 vfio-pci", "0000:05:00.0": "8086:1557 vfio-pci"}
	two := map[string]string{"0000:81:00.0": "8086:154d vfio-pci", "0000:02:00.0": "1af4:1000 vfio-pci", "0000:05:00.1": "8086:10fb uio_pci_generic"}
	for _, c := range []struct {
		name   string
		bound  map[string]string
		uplink string
		mask   uint64
		want   string // the uplink after it
		says   string // in the log
		fails  string // the error
	}{
		{"nothing is asked for", two, "none", 0, "none", "", ""},
		{"the old command line without a card", none, "none", 1, "none", "no 82599 is bound", ""},
		{"one card", one, "none", 1, "ixgbe:0000:05:00.0", "82599 chosen", ""},
		{"one card, the second is asked for", one, "none", 2, "none", "no 82599 is bound", ""},
		{"two cards, the first", two, "none", 1, "ixgbe:0000:05:00.1", "82599 chosen", ""},
		{"two cards, the second", two, "none", 2, "ixgbe:0000:81:00.0", "82599 chosen", ""},
		{"two cards, both: the first", two, "none", 3, "ixgbe:0000:05:00.1", "82599 chosen", ""},
		{"two cards, the third", two, "none", 4, "none", "no 82599 is bound", ""},
		{"beside a tap", two, "tap:vhk0", 2, "tap:vhk0", "-p is ignored because --uplink is given", ""},
		{"beside an address", two, "ixgbe:0000:81:00.0", 1, "ixgbe:0000:81:00.0", "-p is ignored because --uplink is given", ""},
		{"without an address", two, "ixgbe", 0, "ixgbe:0000:05:00.1", "82599 chosen", ""},
		{"without an address, the second", two, "ixgbe", 2, "ixgbe:0000:81:00.0", "82599 chosen", ""},
		{"without an address or a card", none, "ixgbe", 0, "ixgbe", "", "0 82599s are bound, and number 0 is wanted: vhostctl nic list"},
		{"without an address, the second of one", one, "ixgbe", 2, "ixgbe", "", "1 82599s are bound, and number 1 is wanted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			settings := config.Config{Uplink: c.uplink, PortMask: c.mask}
			chosen, err := chooseNIC(settings, machine(t, c.bound), slog.New(slog.NewTextHandler(&log, nil)))
			if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("error %v, want %q", err, c.fails)
			}
			if err == nil && chosen != c.want || (log.Len() > 0) != (c.says != "") || !strings.Contains(log.String(), c.says) {
				t.Errorf("uplink %s, want %s; log %q, want %q", chosen, c.want, log.String(), c.says)
			}
		})
	}
}

// TestChooseNICWithoutPCI: a machine whose devices cannot be listed.
func TestChooseNICWithoutPCI(t *testing.T) {
	h := pci.Host{Sys: t.TempDir()}
	quiet := slog.New(slog.DiscardHandler)
	if _, err := chooseNIC(config.Config{Uplink: "ixgbe"}, h, quiet); err == nil || !strings.Contains(err.Error(), "--uplink ixgbe:ADDRESS") {
		t.Errorf("%v", err)
	}
	if chosen, err := chooseNIC(config.Config{Uplink: "none", PortMask: 1}, h, quiet); err != nil || chosen != "none" {
		t.Errorf("an old command line: %v, %s", err, chosen)
	}
}

// TestZeroCopyAccess: memory is lent only where the IOMMU keeps a card to it.
func TestZeroCopyAccess(t *testing.T) {
	for access, want := range map[string]bool{"vfio": true, "vfio by iommufd": true, "sysfs": false, "vfio-user": false, "": false} {
		if protected(access) != want {
			t.Errorf("%q: %v", access, !want)
		}
	}
}

// TestZeroCopyRefused: --zero-copy 1 is not silently nothing.
func TestZeroCopyRefused(t *testing.T) {
	n := nic82599.New(nic82599.Config{})
	path := filepath.Join(t.TempDir(), "card")
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- n.Serve(ctx, path, nil) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		n.Close()
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	for _, c := range []struct {
		name, uplink string
		zeroCopy     bool
		says         []string // nil: it opens
	}{
		{"none, not asked for", "none", false, nil},
		{"none", "none", true, []string{"--zero-copy 1", `"none"`, "82599"}},
		{"a card without an IOMMU, not asked for", "ixgbe:vfio-user:" + path, false, nil},
		{"a card without an IOMMU", "ixgbe:vfio-user:" + path, true, []string{"--zero-copy 1", "IOMMU", "accessed by vfio-user", "vhostctl nic list", "vfio-pci"}},
		{"again: it was given back", "ixgbe:vfio-user:" + path, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			settings := config.DefaultConfig()
			settings.Uplink, settings.ZeroCopy, settings.StateDir = c.uplink, c.zeroCopy, dir
			settings.ControlSocket, settings.SocketDir = filepath.Join(dir, "control"), filepath.Join(dir, "ports")
			d, err := New(settings, silent(t))
			if err == nil {
				d.closeUplink()
			}
			if (err == nil) != (c.says == nil) {
				t.Fatalf("%v", err)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q says nothing of %q", err, want)
				}
			}
		})
	}
	if _, lends := any(&tap.Tap{}).(uplink.DMAMapper); lends {
		t.Error("a tap is taken for a card that reads guests' memory")
	}
}
