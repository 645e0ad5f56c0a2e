package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"vhostkit/test/guest/proto"
)

// PCI slots of QEMU's "pc" machine: 0 to 2 are the chipset's.
const (
	firstNICSlot = 0x03
	hostRootSlot = 0x1d
	agentSlot    = 0x1e
)

// PCIAddress is where the NIC of that index sits in the guest, for example 0000:00:03.0.
func PCIAddress(index int) string { return fmt.Sprintf("0000:00:%02x.0", firstNICSlot+index) }

// Version is QEMU's version.
type Version struct{ Major, Minor int }

// AtLeast reports whether v is major.minor or newer.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// ErrNoQEMU means that there is no QEMU for x86-64 guests on this machine.
var ErrNoQEMU = errors.New("no qemu-system-x86_64 found: run test/setup/install.sh demo, or set VHOSTKIT_QEMU")

// FindQEMU returns the path of QEMU: VHOSTKIT_QEMU, or what the distribution installs.
func FindQEMU() (string, error) {
	candidates := []string{"qemu-system-x86_64", "/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"}
	if own := os.Getenv("VHOSTKIT_QEMU"); own != "" {
		candidates = []string{own}
	}
	for _, c := range candidates {
		if path, err := exec.LookPath(c); err == nil {
			return path, nil
		}
	}
	return "", ErrNoQEMU
}

// NewQEMU returns the path of a QEMU with a vfio-user client (10.1 or newer). Where the installed one is older, test/setup/qemu-new.sh unpacks one
// into the cache. root is the module's directory.
func NewQEMU(ctx context.Context, root string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(root, "test/setup/qemu-new.sh"))
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find a QEMU with a vfio-user client: %w: %s", err, strings.TrimSpace(messages.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// QEMUVersion asks the QEMU at path for its version.
func QEMUVersion(ctx context.Context, path string) (Version, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return Version{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	return parseVersion(string(out))
}

func parseVersion(text string) (Version, error) {
	m := regexp.MustCompile(`version (\d+)\.(\d+)`).FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("no version in %q", strings.TrimSpace(text))
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return Version{}, err
	}
	minor, err := strconv.Atoi(m[2])
	return Version{major, minor}, err
}

// machine is what goes into QEMU's arguments besides the Config.
type machine struct {
	version   Version
	accel     string // "kvm" or "tcg"
	kernel    string
	initramfs string
	console   string // file
	agentFD   int
}

// arguments builds QEMU's argument vector without the program's name. c has its defaults filled in.
// VHOSTKIT_QEMU_ARGS comes last: a debugger's.
func arguments(c Config, m machine) ([]string, error) {
	memory := fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", c.MemoryMiB)
	if c.HugepageDir != "" {
		memory = fmt.Sprintf("memory-backend-file,id=mem,size=%dM,share=on,prealloc=on,mem-path=%s", c.MemoryMiB, comma(c.HugepageDir))
	}
	args := []string{
		"-name", "guest=" + comma(c.Name),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", c.Machine + ",accel=" + m.accel + ",memory-backend=mem,usb=off,vmport=off",
		"-cpu", c.CPUModel, "-smp", strconv.Itoa(c.CPUs), "-m", fmt.Sprintf("%dM", c.MemoryMiB),
		"-object", memory,
		"-chardev", "file,id=console,path=" + comma(m.console), "-serial", "chardev:console",
	}
	if c.Firmware {
		args = append(args, "-boot", "n")
	} else {
		args = append(args,
			"-kernel", m.kernel, "-initrd", m.initramfs, "-append", kernelCommandLine(c),
			"-device", fmt.Sprintf("virtio-serial-pci,id=serial,max_ports=2,addr=%#x", agentSlot),
			"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", m.agentFD),
			"-device", "virtserialport,chardev=agent,name="+proto.Port)
	}
	if c.HostRoot {
		args = append(args,
			"-fsdev", "local,id=hostroot,path=/,security_model=none,readonly=on,multidevs=remap",
			"-device", fmt.Sprintf("virtio-9p-pci,fsdev=hostroot,mount_tag=hostroot,addr=%#x", hostRootSlot))
	}
	for i, n := range c.NICs {
		nic, err := nicArguments(i, n, c.Firmware, m)
		if err != nil {
			return nil, fmt.Errorf("guest %s, NIC %d: %w", c.Name, i, err)
		}
		args = append(args, nic...)
	}
	return append(append(args, c.QEMUArgs...), strings.Fields(os.Getenv("VHOSTKIT_QEMU_ARGS"))...), nil
}

// kernelCommandLine leaves out of the boot what costs time and tells nothing. Warnings and worse reach the console.
func kernelCommandLine(c Config) string {
	line := "console=ttyS0 quiet panic=-1 nokaslr mitigations=off audit=0 net.ifnames=0 tsc=reliable no_timer_check" +
		" cryptomgr.notests random.trust_cpu=on rcupdate.rcu_expedited=1 8250.nr_uarts=1 i8042.noaux i8042.nokbd" +
		" rdinit=/init"
	if c.KernelArgs != "" {
		line += " " + c.KernelArgs
	}
	return line
}

func nicArguments(i int, n NIC, firmware bool, m machine) ([]string, error) {
	var args []string
	v := m.version
	netdev := n.Netdev
	if n.Socket != "" {
		chardev := fmt.Sprintf("socket,id=chr%d,path=%s", i, comma(n.Socket))
		switch {
		case n.Server:
			chardev += ",server=on,wait=off"
		case n.ReconnectSeconds > 0 && v.AtLeast(9, 2):
			// The option in seconds is deprecated since this version.
			chardev += fmt.Sprintf(",reconnect-ms=%d", n.ReconnectSeconds*1000)
		case n.ReconnectSeconds > 0:
			chardev += fmt.Sprintf(",reconnect=%d", n.ReconnectSeconds)
		}
		args = append(args, "-chardev", chardev)
		netdev = fmt.Sprintf("vhost-user,chardev=chr%d", i)
		if n.Queues > 1 {
			netdev += fmt.Sprintf(",queues=%d", n.Queues)
		}
	}
	args = append(args, "-netdev", fmt.Sprintf("%s,id=net%d", netdev, i))

	device := fmt.Sprintf("virtio-net-pci,netdev=net%d,id=nic%d,mac=%s,addr=%#x", i, i, n.MAC, firstNICSlot+i)
	if !firmware || i > 0 {
		device += ",romfile="
	}
	if n.Queues > 0 {
		device += ",mq=on"
	}
	switch {
	case n.Socket != "" && m.accel == "tcg" && NeedsNoMSIX(v):
		// These versions sometimes take KVM's way to unmask a vector of a vhost-user device, without KVM, and crash.
		// Without MSI-X the guest uses the PCI interrupt line.
		device += ",vectors=0"
	case n.Queues > 0:
		// One vector a queue, one for configuration changes, one for the control queue.
		device += fmt.Sprintf(",vectors=%d", 2*n.Queues+2)
	}
	device += ",packed=" + onOff(n.Packed) + ",mrg_rxbuf=" + onOff(n.Mergeable)
	if n.InOrder {
		if !v.AtLeast(9, 1) {
			return nil, fmt.Errorf("in-order needs QEMU 9.1, this is %v", v)
		}
		device += ",in_order=on"
	}
	if n.HostMTU > 0 {
		device += fmt.Sprintf(",host_mtu=%d", n.HostMTU)
	}
	if n.RXRing > 0 {
		device += fmt.Sprintf(",rx_queue_size=%d", n.RXRing)
	}
	if n.TXRing > 0 {
		device += fmt.Sprintf(",tx_queue_size=%d", n.TXRing)
	}
	if n.DeviceOptions != "" {
		device += "," + n.DeviceOptions
	}
	return append(args, "-device", device), nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// comma doubles commas, as QEMU's option lists want it.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }
