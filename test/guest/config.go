package guest

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// NIC is a virtio-net device of a guest. Its name in the guest is eth0 for the first of Config.NICs, and so on; its PCI
// address is PCIAddress of its index.
type NIC struct {
	// Socket is the vhost-user socket. Empty with a Netdev.
	Socket string
	// Server: QEMU listens on Socket and the switch connects. QEMU then waits for it before it boots.
	Server bool
	// ReconnectSeconds makes QEMU connect again when the switch has gone away, so often. 0: it does not.
	ReconnectSeconds int
	// Netdev is another back-end in QEMU's notation, such as "user" or "socket,listen=:1234", instead of vhost-user.
	Netdev string

	MAC string // empty: 52:54:00:12:34:56 plus the index of the NIC, the same in every guest
	// Queues is the number of queue pairs. 0 means one pair and no multi-queue feature.
	Queues    int
	Packed    bool
	Mergeable bool
	InOrder   bool // needs QEMU 9.1
	HostMTU   int  // offered to the guest, in bytes; 0: no VIRTIO_NET_F_MTU
	// RXRing and TXRing are ring sizes in descriptors, 0 for QEMU's default of 256.
	RXRing, TXRing int
	// DeviceOptions is appended to the -device argument, for example "csum=off,guest_csum=off".
	DeviceOptions string
}

// Config describes a guest. The zero value boots one without a network.
type Config struct {
	Name      string
	MemoryMiB int // default 256
	CPUs      int // default 1, at least the most queue pairs of a NIC
	NICs      []NIC
	// HostRoot shares this machine's root directory, read-only, over 9p. MountHost makes it usable for chroot.
	HostRoot bool
	// Modules are kernel modules to load besides those the other settings need: names, each with its parameters after
	// a space. Modules that the kernel has built in are fine.
	Modules []string
	// Files are further files of the initramfs: path in the guest to path on this machine.
	Files map[string]string
	// HugepageDir is a hugetlbfs mount for the guest's memory. Empty: a shared memfd.
	HugepageDir string
	// Dir keeps the console, QEMU's messages and the initramfs. Empty: a temporary directory, removed with the guest.
	Dir string
	// Firmware boots the network firmware of the first NIC (iPXE) instead of Linux. There is no agent then: only PID,
	// Kill, Stop and Console work.
	Firmware bool
	// KernelArgs is appended to the kernel's command line.
	KernelArgs string
	// QEMUArgs is appended to QEMU's arguments.
	QEMUArgs []string
	// QEMU is the program; empty: what FindQEMU finds. Machine is its -machine type with options, "pc" by default; the PCI addresses of what
	// this package plugs in are the same with "q35".
	QEMU, Machine string
	// Accel is "kvm", "tcg", or empty to find out with the probe.
	Accel string
	// CPUModel is QEMU's -cpu, "max" by default: DPDK needs SSE4.2, and its vectorized drivers AVX2.
	CPUModel string
	// BootTimeout is how long the guest may take until its agent answers; default 90 s.
	BootTimeout time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// maxNICs is how many fit between PCI slots firstNICSlot and hostRootSlot.
const maxNICs = hostRootSlot - firstNICSlot

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "guest"
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 256
	}
	if c.Machine == "" {
		c.Machine = "pc"
	}
	if c.CPUModel == "" {
		c.CPUModel = "max"
	}
	if c.BootTimeout == 0 {
		c.BootTimeout = 90 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if len(c.NICs) > maxNICs {
		return c, fmt.Errorf("guest %s: %d NICs, at most %d fit", c.Name, len(c.NICs), maxNICs)
	}
	nics := make([]NIC, len(c.NICs))
	for i, n := range c.NICs {
		if n.MAC == "" {
			n.MAC = net.HardwareAddr{0x52, 0x54, 0x00, 0x12, 0x34, byte(0x56 + i)}.String()
		}
		if err := n.check(); err != nil {
			return c, fmt.Errorf("guest %s, NIC %d: %w", c.Name, i, err)
		}
		c.CPUs = max(c.CPUs, n.Queues)
		nics[i] = n
	}
	c.NICs = nics
	c.CPUs = max(c.CPUs, 1)
	return c, nil
}

func (n NIC) check() error {
	if (n.Socket == "") == (n.Netdev == "") {
		return errors.New("exactly one of Socket and Netdev must be set")
	}
	if _, err := net.ParseMAC(n.MAC); err != nil {
		return err
	}
	if n.Queues < 0 || n.RXRing < 0 || n.TXRing < 0 || n.HostMTU < 0 || n.ReconnectSeconds < 0 {
		return errors.New("negative number")
	}
	return nil
}
