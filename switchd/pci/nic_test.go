package pci_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vhostkit/switchd/pci"
)

// machine has an 82599 with an interface, one that is bound to vfio-pci, and another card.
func machine(t *testing.T) pci.Host {
	const dev = "sys/bus/pci/devices/"
	h := host(t, map[string]string{
		dev + "0000:01:00.0/class": "0x020000", dev + "0000:01:00.0/vendor": "0x1af4", dev + "0000:01:00.0/device": "0x1000",
		dev + "0000:03:00.0/class": "0x020000", dev + "0000:03:00.0/vendor": "0x8086", dev + "0000:03:00.0/device": "0x10fb", dev + "0000:03:00.0/numa_node": "1",
		dev + "0000:03:00.0/net/eth7/x": "", dev + "0000:03:00.0/driver_override": "(null)",
		dev + "0000:03:00.1/class": "0x020000", dev + "0000:03:00.1/vendor": "0x8086", dev + "0000:03:00.1/device": "0x10fb",
		dev + "0000:00:1f.0/class": "0x060100", dev + "0000:00:1f.0/vendor": "0x8086",
		"sys/class/net/eth7/operstate": "up", "sys/bus/pci/drivers_probe": "", "sys/bus/pci/drivers/vfio-pci/x": "", "sys/bus/pci/drivers/ixgbe/unbind": "",
	}, map[string]string{
		dev + "0000:03:00.0/iommu_group": "../../groups/12", dev + "0000:03:00.1/driver": "../../drivers/vfio-pci", dev + "0000:03:00.1/iommu_group": "../../groups/13",
		"sys/class/net/eth7/device": "../../../bus/pci/devices/0000:03:00.0",
	})
	if err := os.Symlink(filepath.Join(h.Sys, "bus/pci/drivers/ixgbe"), filepath.Join(h.Sys, "bus/pci/devices/0000:03:00.0/driver")); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestNICs(t *testing.T) {
	list, err := machine(t).NICs()
	if err != nil || len(list) != 3 {
		t.Fatalf("%d cards, %v", len(list), err)
	}
	if n := list[0]; n.Address != "0000:03:00.0" || n.Driver != "ixgbe" || n.NUMANode != 1 || n.IOMMUGroup != 12 || n.Link != "up" || n.Usable || !strings.Contains(n.Why, "nic bind") {
		t.Errorf("%+v", n)
	}
	if n := list[1]; n.Address != "0000:03:00.1" || !n.Usable || n.Driver != "vfio-pci" || n.NUMANode != -1 {
		t.Errorf("%+v", n)
	}
	if n := list[2]; n.Address != "0000:01:00.0" || n.Usable || n.Name != "" || n.IOMMUGroup != -1 {
		t.Errorf("%+v", n)
	}
}

// TestUsableWithoutIOMMU: only a card that the kernel takes off the bus when the switch ends.
func TestUsableWithoutIOMMU(t *testing.T) {
	for driver, want := range map[string]bool{"": false, "ixgbe": false, "vfio-pci": false, "igb_uio": false, "uio_pci_generic": true} {
		links := map[string]string{}
		if driver != "" {
			links[at+"driver"] = "../../drivers/" + driver
		}
		n := host(t, map[string]string{at + "class": "0x020000", at + "vendor": "0x8086", at + "device": "0x10fb"}, links).NIC("0000:03:00.0")
		if n.Usable != want || want && !strings.Contains(n.Why, "--unprotected-dma 1") || !want && !strings.Contains(n.Why, "no IOMMU") {
			t.Errorf("%q: %+v", driver, n)
		}
	}
}

func TestFind(t *testing.T) {
	h := machine(t)
	for which, want := range map[string]string{"eth7": "0000:03:00.0", "03:00.1": "0000:03:00.1", "0000:01:00.0": "0000:01:00.0", "eth8": "", "09:00.0": "", "../x": ""} {
		if got, err := h.Find(which); (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%s is %q, %v; want %q", which, got, err, want)
		}
	}
}

func TestPlanBind(t *testing.T) {
	h := machine(t)
	b := pci.Binder{Host: h, Record: filepath.Join(t.TempDir(), "nics.json")}
	steps, err := b.PlanBind("0000:03:00.0", "vfio-pci", false)
	if err != nil || len(steps) != 3 || !strings.HasSuffix(steps[0].File, "driver_override") || steps[0].Text != "vfio-pci" || !strings.HasSuffix(steps[1].File, "driver/unbind") {
		t.Errorf("%v, %v", steps, err)
	}
	if steps, err := b.PlanBind("0000:03:00.1", "vfio-pci", false); err != nil || steps != nil {
		t.Errorf("a card that has the driver: %v, %v", steps, err)
	}
	h.Addresses = func(string) []string { return []string{"192.0.2.7/24"} }
	b.Host = h
	if _, err := b.PlanBind("0000:03:00.0", "vfio-pci", false); !errors.Is(err, pci.ErrInUse) || !strings.Contains(err.Error(), "192.0.2.7") {
		t.Errorf("a card with an address: %v", err)
	}
	if _, err := b.PlanBind("0000:03:00.0", "vfio-pci", true); err != nil {
		t.Errorf("with force: %v", err)
	}
	if err := os.Remove(filepath.Join(h.Sys, "bus/pci/devices/0000:03:00.0/iommu_group")); err != nil {
		t.Fatal(err)
	}
	h.Addresses = func(string) []string { return nil }
	b.Host = h
	if _, err := b.PlanBind("0000:03:00.0", "vfio-pci", false); err == nil || !strings.Contains(err.Error(), "IOMMU") {
		t.Errorf("a card without an IOMMU: %v", err)
	}
}

// TestPlanBindOthers: a typo in an address must not take a disk controller away, and another make of card would be of no use.
func TestPlanBindOthers(t *testing.T) {
	b := pci.Binder{Host: machine(t), Record: filepath.Join(t.TempDir(), "nics.json")}
	for address, want := range map[string]string{"0000:00:1f.0": "class 0601", "0000:01:00.0": "1af4:1000"} {
		for _, driver := range []string{"vfio-pci", "uio_pci_generic"} {
			steps, err := b.PlanBind(address, driver, false)
			if err == nil {
				t.Fatalf("%s: %v", address, steps)
			}
			for _, w := range []string{want, "8086:10fb", "82599 SFI/SFP+", "8086:1558", "--force"} {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s: %q says nothing of %q", address, err, w)
				}
			}
			if steps, err := b.PlanBind(address, driver, true); err != nil || len(steps) == 0 {
				t.Errorf("%s with force: %v, %v", address, steps, err)
			}
		}
	}
}

// share puts devices beside others into an IOMMU group, each with its driver or none.
func share(t *testing.T, h pci.Host, group string, drivers map[string]string) {
	t.Helper()
	for address, driver := range drivers {
		dir := filepath.Join(h.Sys, "bus/pci/devices", address)
		err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(filepath.Join(h.Sys, "kernel/iommu_groups", group, "devices", address), 0o755))
		if _, known := os.Readlink(filepath.Join(dir, "driver")); known != nil && driver != "" {
			err = errors.Join(err, os.Symlink("../../drivers/"+driver, filepath.Join(dir, "driver")))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestSharedGroup: the kernel gives a group as a whole. nic list says what else it uses there, and bind does not pretend that it would help.
func TestSharedGroup(t *testing.T) {
	for _, c := range []struct {
		name    string
		drivers map[string]string
		want    []string // nil: the kernel does not mind
	}{
		{"alone", map[string]string{}, nil},
		{"others without a driver, for user space, bridges", map[string]string{"0000:03:00.2": "", "0000:03:00.3": "vfio-pci", "0000:03:00.4": "pci-stub", "0000:00:01.0": "pcieport"}, nil},
		{"the kernel's", map[string]string{"0000:03:00.2": "ahci", "0000:03:00.3": "vfio-pci", "0000:03:00.5": "ixgbe"}, []string{"0000:03:00.2 (ahci)", "0000:03:00.5 (ixgbe)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := machine(t)
			share(t, h, "12", map[string]string{"0000:03:00.0": "ixgbe"})
			share(t, h, "13", map[string]string{"0000:03:00.1": "vfio-pci"})
			share(t, h, "12", c.drivers)
			share(t, h, "13", c.drivers)
			said := func(what, text string, group string) {
				t.Helper()
				if (text != "") != (c.want != nil) {
					t.Errorf("%s: %q", what, text)
				}
				for _, w := range append([]string{group}, c.want...) {
					if c.want != nil && !strings.Contains(text, w) {
						t.Errorf("%s: %q says nothing of %q", what, text, w)
					}
				}
				if strings.Contains(text, "pcieport") || strings.Contains(text, "0000:03:00.3") {
					t.Errorf("%s: %q blames the wrong ones", what, text)
				}
			}
			bound := h.NIC("0000:03:00.1")
			if said("list, bound", bound.Why, "group 13"); bound.Usable != (c.want == nil) {
				t.Errorf("%+v", bound)
			}
			if n := h.NIC("0000:03:00.0"); c.want != nil {
				said("list", n.Why, "group 12")
			} else if !strings.Contains(n.Why, "nic bind") {
				t.Errorf("%+v", n)
			}
			b := pci.Binder{Host: h, Record: filepath.Join(t.TempDir(), "nics.json")}
			text := ""
			if _, err := b.PlanBind("0000:03:00.0", "vfio-pci", false); err != nil {
				text = err.Error()
			}
			said("bind", text, "group 12")
			if steps, err := b.PlanBind("0000:03:00.0", "vfio-pci", true); err != nil || len(steps) != 3 {
				t.Errorf("with force: %v, %v", steps, err)
			}
		})
	}
}

// Bind writes the files in their order and remembers who had the card; the real kernel is asked in a guest (test/e2e).
func TestBindRemembers(t *testing.T) {
	h := machine(t)
	record := filepath.Join(t.TempDir(), "state", "nics.json")
	b := pci.Binder{Host: h, Record: record}
	link := filepath.Join(h.Sys, "bus/pci/devices/0000:03:00.0/driver")
	done := make(chan struct{})
	go func() { // the kernel
		defer close(done)
		for {
			if data, _ := os.ReadFile(filepath.Join(h.Sys, "bus/pci/drivers_probe")); strings.TrimSpace(string(data)) == "0000:03:00.0" {
				_ = os.Remove(link)
				_ = os.Symlink(filepath.Join(h.Sys, "bus/pci/drivers/vfio-pci"), link)
				return
			}
		}
	}()
	if _, err := b.Bind("0000:03:00.0", "vfio-pci", false); err != nil {
		t.Fatal(err)
	}
	<-done
	if data, err := os.ReadFile(record); err != nil || !strings.Contains(string(data), `"0000:03:00.0": "ixgbe"`) {
		t.Errorf("the record is %s, %v", data, err)
	}
	if data, _ := os.ReadFile(filepath.Join(h.Sys, "bus/pci/drivers/ixgbe/unbind")); string(data) != "0000:03:00.0" {
		t.Errorf("unbind got %q", data)
	}
	if steps, err := b.Unbind("0000:03:00.0", true); err != nil || len(steps) != 3 || steps[0].Text != "\n" {
		t.Errorf("the way back: %v, %v", steps, err)
	}
}

// TestUnbindInUse: the kernel would wait for the process that has the card, so it is named instead.
func TestUnbindInUse(t *testing.T) {
	for _, node := range []string{"/dev/vfio/13", "/host/dev/vfio/devices/vfio3"} {
		t.Run(node, func(t *testing.T) { testUnbindInUse(t, node) })
	}
}

func testUnbindInUse(t *testing.T, node string) {
	h := machine(t)
	fds := filepath.Join(h.Proc, "77/fd")
	if err := errors.Join(os.MkdirAll(fds, 0o755), os.Symlink(node, filepath.Join(fds, "5")),
		os.MkdirAll(filepath.Join(h.Sys, "bus/pci/devices/0000:03:00.1/vfio-dev/vfio3"), 0o755),
		os.WriteFile(filepath.Join(h.Proc, "77/comm"), []byte("switchd\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	b := pci.Binder{Host: h, Record: filepath.Join(t.TempDir(), "nics.json")}
	if _, err := b.Unbind("0000:03:00.1", true); !errors.Is(err, pci.ErrInUse) || !strings.Contains(err.Error(), "switchd (pid 77)") {
		t.Errorf("unbind of a card that is open: %v", err)
	}
	if _, err := b.PlanBind("0000:03:00.1", "uio_pci_generic", false); !errors.Is(err, pci.ErrInUse) {
		t.Errorf("bind of a card that is open: %v", err)
	}
	if _, err := b.PlanBind("0000:03:00.0", "vfio-pci", false); err != nil {
		t.Errorf("another card: %v", err)
	}
}
