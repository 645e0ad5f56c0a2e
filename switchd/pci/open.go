package pci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Options are how a device may be opened.
type Options struct {
	Host Host // ThisHost by default
	// Unprotected allows access without an IOMMU, by the files below /sys: the device can then reach all memory of the machine.
	Unprotected bool
}

const vfioUserPrefix = "vfio-user:"

// Open gives this process a device: "0000:03:00.0", or "vfio-user:/path/of/a/socket" for one that another process serves. The way there is chosen
// by what the device is bound to. Errors say what is missing and what to do.
func Open(address string, o Options) (Device, error) {
	if path, ok := strings.CutPrefix(address, vfioUserPrefix); ok {
		return dialVFIOUser(path)
	}
	if o.Host.Sys == "" {
		o.Host = ThisHost()
	}
	address, err := ParseAddress(address)
	if err == nil {
		err = o.Host.exists(address)
	}
	if err != nil {
		return nil, err
	}
	switch driver := o.Host.driver(address); driver {
	case "vfio-pci":
		return o.Host.openVFIO(address)
	case "", "uio_pci_generic", "igb_uio":
		return o.Host.openUnbound(address, o.Unprotected)
	default:
		text := ""
		for _, name := range o.Host.Interfaces(address) {
			text += " as " + name
			if use := o.Host.InUse(name); use != "" {
				text += " (" + use + ")"
			}
		}
		return nil, fmt.Errorf("open %s: the kernel's driver %s has it%s: give it to the switch with: vhostctl nic bind %s", address, driver, text, address)
	}
}

func (h Host) openUnbound(address string, unprotected bool) (Device, error) {
	_, err := os.Readlink(filepath.Join(h.device(address), "iommu_group"))
	switch {
	case err == nil:
		return nil, fmt.Errorf("open %s: it is not bound to vfio-pci: vhostctl nic bind %s", address, address)
	case !unprotected:
		_, err := h.group(address)
		return nil, fmt.Errorf("open %s: %w; without an IOMMU the card could reach all memory of this machine: the option unprotected allows that", address, err)
	}
	return h.openPhysical(address)
}
