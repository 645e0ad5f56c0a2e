package pci

import (
	"fmt"
	"strings"
)

// Options are how a device may be opened.
type Options struct {
	Host Host // ThisHost by default
	// Unprotected allows access without an IOMMU, by the files below /sys: the device can then reach all memory of the machine.
	Unprotected bool
}

const vfioUserPrefix = "vfio-user:"

// userIO is the kernel's driver for access without an IOMMU.
const userIO = "uio_pci_generic"

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
	case "", userIO, "igb_uio":
		return o.Host.openUnbound(address, driver, o.Unprotected)
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

func (h Host) openUnbound(address, driver string, unprotected bool) (Device, error) {
	_, err := h.group(address)
	switch {
	case err == nil:
		return nil, fmt.Errorf("open %s: it is not bound to vfio-pci: vhostctl nic bind %s", address, address)
	case !unprotected:
		return nil, fmt.Errorf("open %s: %w; without an IOMMU the card could reach all memory of this machine: the option --unprotected-dma 1 allows that",
			address, err)
	case driver != userIO:
		if driver == "" {
			driver = "no driver"
		}
		return nil, fmt.Errorf("open %s: it is bound to %s, and without an IOMMU only %s takes the card off the bus when the switch is killed: "+
			"vhostctl nic bind %s --driver %s", address, driver, userIO, address, userIO)
	}
	return h.openPhysical(address)
}
