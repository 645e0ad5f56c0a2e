package pci

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Host is where the facts about the machine's devices are read. The zero value is not of use; see ThisHost.
type Host struct {
	Sys, Proc string // "/sys", "/proc"
	Dev       string // "/dev", also if empty
	// Addresses gives the addresses of a network interface.
	Addresses func(name string) []string
}

// ThisHost is the machine that this program runs on.
func ThisHost() Host { return Host{Sys: "/sys", Proc: "/proc", Dev: "/dev", Addresses: addresses} }

func addresses(name string) (list []string) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	all, _ := i.Addrs()
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsLinkLocalUnicast() {
			continue // the kernel gives those to every interface that is up
		}
		list = append(list, a.String())
	}
	return list
}

var addressForm = regexp.MustCompile(`^(?:([0-9a-fA-F]{4}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])$`)

// ParseAddress gives an address its long form, 0000:03:00.0.
func ParseAddress(text string) (string, error) {
	m := addressForm.FindStringSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("%q is no PCI address: want one such as 0000:03:00.0 (vhostctl nic list)", text)
	}
	if m[1] == "" {
		m[1] = "0000"
	}
	return strings.ToLower(fmt.Sprintf("%s:%s:%s.%s", m[1], m[2], m[3], m[4])), nil
}

func (h Host) device(address string) string { return filepath.Join(h.Sys, "bus/pci/devices", address) }

func (h Host) exists(address string) error {
	if _, err := os.Stat(h.device(address)); err != nil {
		return fmt.Errorf("there is no PCI device %s on this machine (vhostctl nic list shows the network cards)", address)
	}
	return nil
}

// driver is the kernel's driver for a device, "" for none.
func (h Host) driver(address string) string {
	link, err := os.Readlink(filepath.Join(h.device(address), "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(link)
}

// Interfaces are the names of a device's network interfaces.
func (h Host) Interfaces(address string) (names []string) {
	entries, _ := os.ReadDir(filepath.Join(h.device(address), "net"))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (h Host) text(path ...string) string {
	data, _ := os.ReadFile(filepath.Join(path...))
	return strings.TrimSpace(string(data))
}

func (h Host) hex(address, file string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimPrefix(h.text(h.device(address), file), "0x"), 16, 64)
	return n
}
