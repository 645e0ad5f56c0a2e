package pci_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/pci"
)

// unprotected has a card that is bound to uio_pci_generic, on the bus, and no IOMMU.
func unprotected(t *testing.T, driver string, nodes ...string) pci.Host {
	t.Helper()
	config := make([]byte, 4096)
	config[4] = 0x07
	files := map[string]string{at + "config": string(config), at + "reset": ""}
	for _, n := range nodes {
		files[at+"uio/"+n+"/name"], files["dev/"+n] = driver, ""
	}
	links := map[string]string{}
	if driver != "" {
		links[at+"driver"] = "../../drivers/" + driver
	}
	h := host(t, files, links)
	h.Dev = filepath.Join(filepath.Dir(h.Sys), "dev")
	return h
}

const card = "0000:03:00.0"

func busMaster(t *testing.T, h pci.Host) bool {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.Sys, "bus/pci/devices", card, "config"))
	if err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint16(data[4:])&4 != 0
}

// opens counts how often a file is opened from now on.
func opens(t *testing.T, name string) func() int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, name, unix.IN_OPEN)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func() int {
		events := make([]byte, 4096)
		n, _ := unix.Read(fd, events)
		return max(n, 0) / unix.SizeofInotifyEvent
	}
}

// TestOneOwner: without VFIO the kernel would give the card to two programs. The second is refused with the first one's name, and does not touch
// its /dev/uioN: closing that takes the card off the bus under the first.
func TestOneOwner(t *testing.T) {
	h := unprotected(t, "uio_pci_generic", "uio3")
	node := filepath.Join(h.Dev, "uio3")
	first := opens(t, node)
	own := h
	own.Proc = "/proc"
	options := pci.Options{Host: own, Unprotected: true}
	d, err := pci.Open(card, options)
	if err != nil {
		t.Fatal(err)
	}
	if n := first(); n != 1 {
		t.Errorf("%s was opened %d times: nothing takes the card off the bus when the switch is killed", node, n)
	}
	if data, _ := os.ReadFile(filepath.Join(h.Sys, "bus/pci/devices", card, "reset")); !strings.Contains(string(data), "1") {
		t.Error("the card was not reset: it may still have the addresses of a switch that was killed")
	}
	if !busMaster(t, h) {
		t.Error("the card is not on the bus")
	}
	again := opens(t, node)
	_, err = pci.Open(card, options)
	comm, _ := os.ReadFile("/proc/self/comm")
	if me := fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid()); !errors.Is(err, pci.ErrInUse) || !strings.Contains(err.Error(), me) {
		t.Errorf("a second owner: %v, want it refused in the name of %s", err, me)
	}
	if _, err := pci.Open(card, pci.Options{Host: h, Unprotected: true}); !errors.Is(err, pci.ErrInUse) || !strings.Contains(err.Error(), "fuser "+filepath.Join(h.Sys)) {
		t.Errorf("a second owner that cannot see the first: %v", err)
	}
	b := pci.Binder{Host: own, Record: filepath.Join(t.TempDir(), "nics.json")}
	if _, err := b.Unbind(card, true); !errors.Is(err, pci.ErrInUse) {
		t.Errorf("unbind: %v", err)
	}
	if n := again(); n != 0 {
		t.Errorf("%s was opened %d times by those that were refused", node, n)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if busMaster(t, h) {
		t.Error("the card is on the bus after Close")
	}
	if d, err = pci.Open(card, options); err != nil {
		t.Fatalf("after the first has closed it: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestOtherOwner: other programs, such as DPDK's, lock nothing.
func TestOtherOwner(t *testing.T) {
	h := unprotected(t, "uio_pci_generic", "uio3")
	fds := filepath.Join(h.Proc, "77/fd")
	if err := errors.Join(os.MkdirAll(fds, 0o755), os.Symlink("/dev/uio3", filepath.Join(fds, "5")), os.Symlink("/dev/uio33", filepath.Join(fds, "6")),
		os.WriteFile(filepath.Join(h.Proc, "77/comm"), []byte("dpdk-testpmd\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	opened := opens(t, filepath.Join(h.Dev, "uio3"))
	if _, err := pci.Open(card, pci.Options{Host: h, Unprotected: true}); !errors.Is(err, pci.ErrInUse) || !strings.Contains(err.Error(), "dpdk-testpmd (pid 77)") {
		t.Errorf("%v", err)
	}
	if n := opened(); n != 0 {
		t.Errorf("/dev/uio3 was opened %d times", n)
	}
	b := pci.Binder{Host: h, Record: filepath.Join(t.TempDir(), "nics.json")}
	if _, err := b.PlanBind(card, "vfio-pci", true); !errors.Is(err, pci.ErrInUse) {
		t.Errorf("bind: %v", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(fds, "5"))); err != nil {
		t.Fatal(err)
	}
	d, err := pci.Open(card, pci.Options{Host: h, Unprotected: true})
	if err != nil {
		t.Fatalf("another card's owner is in the way: %v", err)
	}
	_ = d.Close()
}

// TestUnprotectedSaysWhatIsMissing: what would take the card off the bus has to be there.
func TestUnprotectedSaysWhatIsMissing(t *testing.T) {
	const bind = "vhostctl nic bind 0000:03:00.0 --driver uio_pci_generic"
	for _, c := range []struct {
		name, driver string
		nodes        []string
		remove       string
		want         []string
	}{
		{"no driver", "", nil, "", []string{"no driver", bind}},
		{"another driver for user space", "igb_uio", []string{"uio0"}, "", []string{"igb_uio", bind}},
		{"no node", "uio_pci_generic", nil, "", []string{"0 device nodes", "nic unbind"}},
		{"node not in /dev", "uio_pci_generic", []string{"uio2"}, "dev/uio2", []string{"dev/uio2", "no such file"}},
		{"no configuration space", "uio_pci_generic", []string{"uio2"}, at + "config", []string{"config", "needs root"}},
		{"no memory", "uio_pci_generic", []string{"uio2"}, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := unprotected(t, c.driver, c.nodes...)
			if c.remove != "" {
				if err := os.Remove(filepath.Join(filepath.Dir(h.Sys), c.remove)); err != nil {
					t.Fatal(err)
				}
			}
			d, err := pci.Open(card, pci.Options{Host: h, Unprotected: true})
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := d.AllocDMA(3 << 20); !errors.Is(err, pci.ErrUnsupported) {
					t.Errorf("more than a hugepage: %v", err)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("it was opened")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q says nothing about %q", err, want)
				}
			}
		})
	}
}
