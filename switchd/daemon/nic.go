package daemon

import (
	"fmt"
	"log/slog"
	"math/bits"
	"strconv"
	"strings"

	"vhostkit/switchd/config"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe"
)

// boundNICs lists the addresses of the 82599s that are bound to a driver for user space, lowest first. -p numbers them.
func boundNICs(h pci.Host) ([]string, error) {
	list, err := h.NICs()
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, n := range list {
		switch n.Driver {
		case "vfio-pci", "uio_pci_generic", "igb_uio":
			if n.Name != "" {
				addresses = append(addresses, n.Address)
			}
		}
	}
	return addresses, nil
}

// chooseNIC finds the uplink that -p, or --uplink ixgbe without an address, asks for. Without a bound 82599, -p alone leaves --uplink as it is:
// the old command lines always have it.
func chooseNIC(c config.Config, h pci.Host, log *slog.Logger) (string, error) {
	if c.PortMask == 0 && c.Uplink != config.UplinkIXGBE {
		return c.Uplink, nil
	}
	if c.Uplink != config.UplinkIXGBE && c.Uplink != "none" {
		log.Warn("-p is ignored because --uplink is given", "mask", fmt.Sprintf("%#x", c.PortMask), "uplink", c.Uplink)
		return c.Uplink, nil
	}
	bound, err := boundNICs(h)
	if err != nil && c.Uplink == config.UplinkIXGBE {
		return "", fmt.Errorf("--uplink ixgbe: %w; name the card: --uplink ixgbe:ADDRESS", err)
	}
	index := bits.TrailingZeros64(c.PortMask) % 64 // no mask: the first
	switch {
	case index < len(bound):
		log.Info("82599 chosen", "mask", fmt.Sprintf("%#x", c.PortMask), "address", bound[index], "bound", bound)
		return config.UplinkIXGBE + ":" + bound[index], nil
	case c.Uplink == config.UplinkIXGBE:
		return "", fmt.Errorf("--uplink ixgbe: %d 82599s are bound, and number %d is wanted: vhostctl nic list shows them, vhostctl nic bind ADDRESS binds one",
			len(bound), index)
	default:
		log.Warn("no 82599 is bound for -p; running with the uplink of --uplink instead", "mask", fmt.Sprintf("%#x", c.PortMask),
			"uplink", c.Uplink, "bound", bound)
	}
	return c.Uplink, nil
}

// nicConfig is the driver's part of the configuration. Frames that the NIC loops carry a tag more than the guest sent.
func nicConfig(c config.Config, log *slog.Logger) (ixgbe.Config, error) {
	layout, err := ixgbe.FindLayout(c.VMDq)
	queues := c.UplinkQueues
	if queues == 0 {
		queues = len(c.Cores)
	}
	return ixgbe.Config{
		Queues: min(queues, ixgbe.MaxQueues), Layout: layout, VLANBase: c.VLANBase, MaxFrame: maxFrame(c) + ether.TagLen,
		Loopback: c.VM2VM == int(forward.VM2VMHardware), VLANStrip: c.VLANStrip, Promiscuous: c.Promiscuous, AntiSpoof: c.AntiSpoof, Log: log,
	}, err
}

// openNIC opens the 82599 at an address.
func openNIC(c config.Config, address string, log *slog.Logger) (uplink.Uplink, error) {
	driver, err := nicConfig(c, log)
	if err != nil {
		return nil, err
	}
	device, err := pci.Open(address, pci.Options{Unprotected: c.UnprotectedDMA})
	if err != nil {
		return nil, fmt.Errorf("uplink ixgbe:%s: %w", address, err)
	}
	if access := device.Access(); c.ZeroCopy && !protected(access) {
		_ = device.Close()
		return nil, fmt.Errorf("uplink ixgbe:%s: --zero-copy 1 wants the card behind an IOMMU (vhostctl nic list; bound to vfio-pci), which keeps "+
			"it to the memory that guests lend; it is accessed by %s", address, access)
	}
	n, err := ixgbe.Open(device, driver)
	if err != nil {
		return nil, err
	}
	l := driver.Layout
	log.Info("uplink open", "interface", n.Name(), "driver", n.Driver(), "access", device.Access(), "queues", n.Queues(), "vmdq", l.Name, "zero_copy", c.ZeroCopy)
	// The words of DPDK's vhost sample.
	log.Info(fmt.Sprintf("pf queue num: 0, configured vmdq pool num: %d, each vmdq pool has %d queues", l.Pools, l.Stride))
	return n, nil
}

// protected tells whether something keeps a card that is accessed in this way to the memory that it was given.
func protected(access string) bool { return access == "vfio" || access == "vfio by iommufd" }

// Check checks a configuration as CheckSettings does, and what this host's limits say of it.
func Check(c config.Config) error {
	if err := CheckSettings(c); err != nil {
		return err
	}
	_, err := Limits(c)
	return err
}

// CheckSettings checks a configuration as Config.Validate does, and what the drivers say of it.
func CheckSettings(c config.Config) error { return c.Validate(checkNIC(c)) }

// checkNIC checks the options of the driver.
func checkNIC(c config.Config) error {
	layout, err := ixgbe.FindLayout(c.VMDq)
	if err != nil {
		return &config.RangeError{Option: "--vmdq", Value: strconv.Quote(c.VMDq), Want: strings.Join(ixgbe.LayoutNames(), " or ")}
	}
	if kind, _, _ := strings.Cut(c.Uplink, ":"); kind == config.UplinkIXGBE && c.VLANBase+layout.Pools-1 > 4094 {
		return &config.RangeError{Option: "--vlan-base", Value: strconv.Itoa(c.VLANBase),
			Want: fmt.Sprintf("at most %d: each of the NIC's %d pools has a VLAN", 4095-layout.Pools, layout.Pools)}
	}
	return nil
}
