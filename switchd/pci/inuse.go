package pci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// InUse tells what a network interface is used for, itself or by what is built on it; "" for nothing that taking it away would end.
func (h Host) InUse(name string) string { return h.inUse(name, name, map[string]bool{}) }

// inUse: called is the interface with those that it lies on; seen are those that were looked at.
func (h Host) inUse(name, called string, seen map[string]bool) string {
	seen[name] = true
	if use := h.ownUse(name, called); use != "" {
		return use
	}
	first := ""
	for _, upper := range h.uppers(name) {
		if first == "" {
			first = fmt.Sprintf("%s carries %s", called, upper)
		}
		if seen[upper] {
			continue
		}
		if use := h.inUse(upper, upper+" on "+called, seen); use != "" {
			return use
		}
	}
	return first // a macvtap has no address here: its guest has
}

// uppers are the interfaces that are built on another: VLANs, macvlans, bridges and so on.
func (h Host) uppers(name string) (list []string) {
	links, _ := filepath.Glob(filepath.Join(h.Sys, "class/net", name, "upper_*"))
	for _, l := range links {
		list = append(list, strings.TrimPrefix(filepath.Base(l), "upper_"))
	}
	return list
}

func (h Host) ownUse(name, called string) string {
	if master, err := os.Readlink(filepath.Join(h.Sys, "class/net", name, "master")); err == nil {
		return fmt.Sprintf("%s is a port of %s", called, filepath.Base(master))
	}
	for _, route := range strings.Split(h.text(h.Proc, "net/route"), "\n") {
		if f := strings.Fields(route); len(f) > 7 && f[0] == name && f[1] == "00000000" && f[7] == "00000000" {
			return fmt.Sprintf("the default route goes over %s", called)
		}
	}
	const zero = "00000000000000000000000000000000"
	for _, route := range strings.Split(h.text(h.Proc, "net/ipv6_route"), "\n") {
		if f := strings.Fields(route); len(f) > 9 && f[9] == name && f[0] == zero && f[1] == "00" {
			return fmt.Sprintf("the default route goes over %s", called)
		}
	}
	if list := h.Addresses(name); len(list) > 0 {
		return fmt.Sprintf("%s has the address %s", called, list[0])
	}
	return ""
}
