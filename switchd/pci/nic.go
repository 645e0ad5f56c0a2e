package pci

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// NIC is a network card of this machine.
type NIC struct {
	Address    string   `json:"address"`
	Vendor     uint16   `json:"vendor"`
	Device     uint16   `json:"device"`
	Name       string   `json:"name,omitempty"` // where it is one that the switch can drive
	Driver     string   `json:"driver,omitempty"`
	Interfaces []string `json:"interfaces,omitempty"`
	NUMANode   int      `json:"numa_node"`   // -1: the machine does not tell
	IOMMUGroup int      `json:"iommu_group"` // -1: none
	Link       string   `json:"link,omitempty"`
	Usable     bool     `json:"usable"`        // by the switch, now
	Why        string   `json:"why,omitempty"` // not, or what to do
}

// The 82599's device ids by what they are called (Intel's specification update).
var supported = map[uint16]string{
	0x10fb: "82599 SFI/SFP+", 0x10f8: "82599 backplane", 0x10f9: "82599 CX4", 0x10fc: "82599 XAUI", 0x10f7: "82599 KX4", 0x1507: "82599 SFP+ EM",
	0x1514: "82599 KX4 mezzanine", 0x1517: "82599 KR", 0x151c: "82599 T3", 0x1529: "82599 SFP+ FCoE", 0x152a: "82599 backplane FCoE", 0x154a: "82599 quad SFP+",
	0x154d: "82599 SFP+ SF2", 0x1557: "82599EN SFP+", 0x1558: "82599 QSFP+",
}

const (
	vendorIntel   = 0x8086
	classEthernet = 0x0200
)

// Supported tells whether the switch has a driver for a device.
func Supported(vendor, device uint16) bool { return vendor == vendorIntel && supported[device] != "" }

// supportedList names the devices that the switch can drive, for people.
func supportedList() string {
	var list []string
	for _, id := range slices.Sorted(maps.Keys(supported)) {
		list = append(list, fmt.Sprintf("%04x:%04x (%s)", vendorIntel, id, supported[id]))
	}
	return strings.Join(list, ", ")
}

// drivable refuses what is no network card, or none that the switch can drive.
func (h Host) drivable(n NIC) error {
	class := h.hex(n.Address, "class") >> 8
	if class == classEthernet && n.Name != "" {
		return nil
	}
	what := "is no network card"
	if class == classEthernet {
		what = "is a network card that the switch has no driver for"
	}
	return fmt.Errorf("%s (%04x:%04x, class %04x) %s: those that it can drive are %s (--force does it all the same)", n.Address, n.Vendor, n.Device, class, what,
		supportedList())
}

// NICs lists the Ethernet cards, those that the switch can drive first.
func (h Host) NICs() (list []NIC, err error) {
	entries, err := os.ReadDir(filepath.Join(h.Sys, "bus/pci/devices"))
	if err != nil {
		return nil, fmt.Errorf("list this machine's PCI devices: %w", err)
	}
	for _, e := range entries {
		if h.hex(e.Name(), "class")>>8 == classEthernet {
			list = append(list, h.NIC(e.Name()))
		}
	}
	slices.SortStableFunc(list, func(a, b NIC) int {
		if (a.Name != "") != (b.Name != "") {
			return cmp.Compare(b.Name, a.Name)
		}
		return cmp.Compare(a.Address, b.Address)
	})
	return list, nil
}

// NIC describes one.
func (h Host) NIC(address string) NIC {
	n := NIC{
		Address: address, Vendor: uint16(h.hex(address, "vendor")), Device: uint16(h.hex(address, "device")), Driver: h.driver(address),
		Interfaces: h.Interfaces(address), NUMANode: -1, IOMMUGroup: -1,
	}
	if Supported(n.Vendor, n.Device) {
		n.Name = supported[n.Device]
	}
	if node, err := strconv.Atoi(h.text(h.device(address), "numa_node")); err == nil {
		n.NUMANode = node
	}
	if group, err := h.group(address); err == nil {
		n.IOMMUGroup = group
	}
	for _, i := range n.Interfaces {
		n.Link = h.text(h.Sys, "class/net", i, "operstate")
	}
	n.Usable, n.Why = h.usable(n)
	return n
}

func (h Host) usable(n NIC) (bool, string) {
	switch {
	case n.Name == "":
		return false, "the switch has no driver for it; use it through a tap on a bridge"
	case n.IOMMUGroup < 0 && n.Driver == userIO:
		return true, "without an IOMMU the card can reach all memory: switchd --unprotected-dma 1"
	case n.IOMMUGroup < 0:
		return false, "no IOMMU: intel_iommu=on or amd_iommu=on on the kernel's command line"
	}
	if n.Driver != "vfio-pci" {
		for _, i := range n.Interfaces {
			if use := h.InUse(i); use != "" {
				return false, use
			}
		}
	}
	if why := h.sharing(n.Address, n.IOMMUGroup); why != "" {
		return false, why
	}
	if n.Driver == "vfio-pci" {
		return true, ""
	}
	return false, "vhostctl nic bind " + n.Address
}

// Find gives the address of a card by its address or by the name of its interface.
func (h Host) Find(which string) (string, error) {
	if link, err := os.Readlink(filepath.Join(h.Sys, "class/net", which, "device")); err == nil && !strings.Contains(which, "/") {
		if address := filepath.Base(link); addressForm.MatchString(address) {
			return address, nil
		}
		return "", fmt.Errorf("%s does not belong to a PCI device", which)
	}
	address, err := ParseAddress(which)
	if err != nil {
		return "", fmt.Errorf("%q is neither a network interface nor a PCI address: vhostctl nic list shows the cards", which)
	}
	return address, h.exists(address)
}
