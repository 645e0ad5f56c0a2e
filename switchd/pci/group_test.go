package pci

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNotViable: what the kernel says no to without a word is told with the names of those who are in the way.
func TestNotViable(t *testing.T) {
	h := Host{Sys: t.TempDir()}
	devices := map[string]string{
		"0000:03:00.0": "vfio-pci", "0000:03:00.1": "ixgbe", "0000:03:00.2": "", "0000:00:01.0": "pcieport", "0000:03:00.3": "ahci",
	}
	for address, driver := range devices {
		dir := h.device(address)
		err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(filepath.Join(h.Sys, "kernel/iommu_groups/9/devices", address), 0o755))
		if driver != "" {
			err = errors.Join(err, os.Symlink("../../drivers/"+driver, filepath.Join(dir, "driver")))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text := h.notViable("0000:03:00.0", 9).Error()
	for _, want := range []string{"IOMMU group 9 for 0000:03:00.0", "0000:03:00.1 (ixgbe), 0000:03:00.3 (ahci)", "vhostctl nic bind", "another slot"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q says nothing of %q", text, want)
		}
	}
	for _, wrong := range []string{"pcieport", "0000:03:00.2", "0000:03:00.0 ("} {
		if strings.Contains(text, wrong) {
			t.Errorf("%q blames %q", text, wrong)
		}
	}
	if text := h.notViable("0000:03:00.0", 10).Error(); !strings.Contains(text, "iommu_groups/10/devices") {
		t.Errorf("nobody to blame: %q", text)
	}
}
