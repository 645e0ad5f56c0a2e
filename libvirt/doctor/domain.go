package doctor

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// domain is what the checks want of a domain's XML.
type domain struct {
	Name         string
	now          description // what runs; where nothing does, what the next start uses
	next         description // what the next start uses; where that is not kept, what runs
	Active, Kept bool
}

type description struct {
	Type   string   `xml:"type,attr"`
	Name   string   `xml:"name"`
	Memory quantity `xml:"memory"`
	VCPUs  int      `xml:"vcpu"`
	OS     struct {
		Type struct {
			Machine string `xml:"machine,attr"`
		} `xml:"type"`
		Kernel string     `xml:"kernel"`
		Boot   []struct{} `xml:"boot"`
	} `xml:"os"`
	Backing *struct {
		Huge *struct {
			Pages []struct {
				Size    uint64 `xml:"size,attr"`
				Unit    string `xml:"unit,attr"`
				NodeSet string `xml:"nodeset,attr"`
			} `xml:"page"`
		} `xml:"hugepages"`
		Source struct {
			Type string `xml:"type,attr"`
		} `xml:"source"`
		Access struct {
			Mode string `xml:"mode,attr"`
		} `xml:"access"`
		Allocation struct {
			Mode string `xml:"mode,attr"`
		} `xml:"allocation"`
		Locked *struct{} `xml:"locked"`
	} `xml:"memoryBacking"`
	Tune struct {
		Hard *quantity `xml:"hard_limit"`
	} `xml:"memtune"`
	Cells []struct {
		ID     string `xml:"id,attr"`
		Memory uint64 `xml:"memory,attr"`
		Unit   string `xml:"unit,attr"`
		Access string `xml:"memAccess,attr"`
	} `xml:"cpu>numa>cell"`
	Numa struct {
		Memory *struct {
			Mode    string `xml:"mode,attr"`
			NodeSet string `xml:"nodeset,attr"`
		} `xml:"memory"`
		Nodes []struct {
			Cell    string `xml:"cellid,attr"`
			Mode    string `xml:"mode,attr"`
			NodeSet string `xml:"nodeset,attr"`
		} `xml:"memnode"`
	} `xml:"numatune"`
	Pins []struct {
		CPU string `xml:"cpuset,attr"`
	} `xml:"cputune>vcpupin"`
	// Args is what <qemu:commandline> adds.
	Args []struct {
		Value string `xml:"value,attr"`
	} `xml:"commandline>arg"`
	Devices struct {
		Emulator   string      `xml:"emulator"`
		Interfaces []netDevice `xml:"interface"`
		Others     []pciDevice `xml:",any"`
	} `xml:"devices"`
}

type quantity struct {
	Unit  string `xml:"unit,attr"`
	Value string `xml:",chardata"`
}

type pciDevice struct {
	XMLName xml.Name
	Type    string    `xml:"type,attr"`
	Model   string    `xml:"model,attr"`
	Index   string    `xml:"index,attr"`
	Boot    *struct{} `xml:"boot"`
	Address address   `xml:"address"`
}

type address struct {
	Type string `xml:"type,attr"`
	Bus  string `xml:"bus,attr"`
}

// netDevice is an <interface>.
type netDevice struct {
	Type string `xml:"type,attr"`
	MAC  struct {
		Address string `xml:"address,attr"`
	} `xml:"mac"`
	Source struct {
		Path      string `xml:"path,attr"`
		Mode      string `xml:"mode,attr"`
		Reconnect *struct {
			Enabled string `xml:"enabled,attr"`
		} `xml:"reconnect"`
	} `xml:"source"`
	Model struct {
		Type string `xml:"type,attr"`
	} `xml:"model"`
	Driver struct {
		Queues int       `xml:"queues,attr"`
		Packed string    `xml:"packed,attr"`
		Host   *offloads `xml:"host"`
		Guest  *offloads `xml:"guest"`
	} `xml:"driver"`
	Backend struct {
		Vhost string `xml:"vhost,attr"`
	} `xml:"backend"`
	MTU struct {
		Size int `xml:"size,attr"`
	} `xml:"mtu"`
	Alias struct {
		Name string `xml:"name,attr"`
	} `xml:"alias"`
	Boot    *struct{} `xml:"boot"`
	Address address   `xml:"address"`
}

type offloads struct {
	Csum string `xml:"csum,attr"`
	GSO  string `xml:"gso,attr"`
	TSO4 string `xml:"tso4,attr"`
	TSO6 string `xml:"tso6,attr"`
	ECN  string `xml:"ecn,attr"`
}

// off tells that each of the named ones is switched off.
func (o *offloads) off(values ...string) bool {
	return o != nil && !slices.ContainsFunc(values, func(v string) bool { return v != "off" })
}

func (n netDevice) vhostUser() bool { return n.Type == "vhostuser" }

// cuse tells that libvirt opens a user-space vhost device for it.
func (n netDevice) cuse() bool { return n.Backend.Vhost != "" && n.Backend.Vhost != "/dev/vhost-net" }

// label names the interface in messages.
func (n netDevice) label() string {
	switch {
	case n.Alias.Name != "":
		return n.Alias.Name
	case n.MAC.Address != "":
		return n.MAC.Address
	}
	return n.Source.Path
}

func newDomain(x DomainXML) (*domain, error) {
	d := &domain{Name: x.Name, Active: x.Live != "", Kept: x.Config != ""}
	for _, part := range []struct {
		text string
		into *description
	}{{x.Live, &d.now}, {x.Config, &d.next}} {
		if part.text == "" {
			continue
		}
		if err := xml.Unmarshal([]byte(part.text), part.into); err != nil {
			return nil, fmt.Errorf("description of domain %s: %w", x.Name, err)
		}
	}
	if !d.Active {
		d.now = d.next
	}
	if !d.Kept {
		d.next = d.now
	}
	return d, nil
}

// onSwitch are the interfaces that go past the kernel.
func (d description) onSwitch() []netDevice {
	var list []netDevice
	for _, n := range d.Devices.Interfaces {
		if n.vhostUser() || n.cuse() {
			list = append(list, n)
		}
	}
	return list
}

func (d description) vhostUser() []netDevice {
	var list []netDevice
	for _, n := range d.Devices.Interfaces {
		if n.vhostUser() {
			list = append(list, n)
		}
	}
	return list
}

// pinInterrupts tells that the guest's network devices are kept from MSI-X by hand.
func (d description) pinInterrupts() bool {
	for _, a := range d.Args {
		if strings.Contains(a.Value, "vectors=0") {
			return true
		}
	}
	return false
}

// wrapped tells that the domain is started by qemu-wrap, which makes memory and interfaces right by itself.
func (d description) wrapped() bool { return strings.Contains(d.Devices.Emulator, "qemu-wrap") }

// concerned tells that the domain is meant to be on the switch.
func (d description) concerned() bool { return d.wrapped() || len(d.onSwitch()) > 0 }

// kib is a size in KiB; libvirt's default unit is KiB, its units of thousands are rare and rounded up.
func kib(value uint64, unit string) uint64 {
	switch strings.ToLower(unit) {
	case "b", "bytes":
		return (value + 1023) >> 10
	case "kb":
		return (value*1000 + 1023) >> 10
	case "mb":
		return (value*1000_000 + 1023) >> 10
	case "gb":
		return (value*1000_000_000 + 1023) >> 10
	case "m", "mib":
		return value << 10
	case "g", "gib":
		return value << 20
	case "t", "tib":
		return value << 30
	}
	return value
}

func (q quantity) kib() uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(q.Value), 10, 64)
	return kib(n, q.Unit)
}

// maxNumbers bounds what a set may hold: more than any host has cores or nodes.
const maxNumbers = 8192

// numberSet reads 0-3,5,^2. It is nil for what it does not understand, such as the empty text.
func numberSet(s string) []int {
	var in [maxNumbers]bool
	for i, part := range strings.Split(strings.TrimSpace(s), ",") {
		part, remove := strings.CutPrefix(part, "^")
		low, high, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(low)
		b := a
		if isRange && err == nil {
			b, err = strconv.Atoi(high)
		}
		if err != nil || a < 0 || b >= maxNumbers || i >= maxNumbers {
			return nil
		}
		for n := a; n <= b; n++ {
			in[n] = !remove
		}
	}
	var list []int
	for n, is := range in {
		if is {
			list = append(list, n)
		}
	}
	return list
}
