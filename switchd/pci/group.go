package pci

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// group is the device's IOMMU group.
func (h Host) group(address string) (int, error) {
	link, err := os.Readlink(filepath.Join(h.device(address), "iommu_group"))
	if err != nil {
		return 0, fmt.Errorf("%s is in no IOMMU group: this machine has no IOMMU, or it is off: switch it on in the firmware and boot with intel_iommu=on "+
			"(Intel) or amd_iommu=on (AMD)", address)
	}
	return strconv.Atoi(filepath.Base(link))
}

// harmless are drivers that leave the device to whoever takes the group, or drive only the way to it.
var harmless = map[string]bool{"": true, "vfio-pci": true, "pci-stub": true, "pcieport": true}

// sharers names the other devices of an IOMMU group that the kernel uses ("0000:03:00.1 (ixgbe)"). It gives a group to a program as a whole or
// not at all.
func (h Host) sharers(address string, group int) (list []string) {
	others, _ := filepath.Glob(filepath.Join(h.Sys, "kernel/iommu_groups", strconv.Itoa(group), "devices/*"))
	for _, o := range others {
		name := filepath.Base(o)
		if driver := h.driver(name); name != address && !harmless[driver] {
			list = append(list, fmt.Sprintf("%s (%s)", name, driver))
		}
	}
	return list
}

// sharing says what sharers keep from happening; "" where there are none.
func (h Host) sharing(address string, group int) string {
	list := h.sharers(address, group)
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf("the kernel uses other devices of IOMMU group %d: %s: bind them to vfio-pci as well (vhostctl nic bind), or put the card into "+
		"another slot", group, strings.Join(list, ", "))
}

// notViable names what keeps an IOMMU group from being given to a program.
func (h Host) notViable(address string, group int) error {
	why := h.sharing(address, group)
	if why == "" {
		why = "the kernel uses another device of the group: look for drivers in " + filepath.Join(h.Sys, "kernel/iommu_groups", strconv.Itoa(group), "devices")
	}
	return fmt.Errorf("take IOMMU group %d for %s: %s", group, address, why)
}
