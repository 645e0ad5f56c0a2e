// Package domainxml rewrites the XML of libvirt domains so that their interfaces end on the vhost switch, and back. Everything that it does
// not own keeps every byte: comments, order, white space, quotes, namespaces.
package domainxml

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Domain is what matters of a domain's description.
type Domain struct {
	Name       string
	Type       string // kvm, qemu
	Emulator   string
	Machine    string
	Interfaces []Interface
	Memory     Memory
	Ports      []Port // that Attach gave it
	Attached   bool   // Attach changed it
}

// Interface is one network interface.
type Interface struct {
	Index     int
	Type      string // network, bridge, ethernet, vhostuser, …
	MAC       string
	Alias     string
	Model     string
	Socket    string // of a vhostuser interface
	Mode      string // client: QEMU connects
	Reconnect bool
	Queues    int // 0: not said
	MTU       int // 0: not said
}

// Memory says whether the switch could map the guest's memory.
type Memory struct {
	Bytes     uint64
	Shared    bool
	Hugepages bool
	Source    string   // file, anonymous, memfd; "" is anonymous unless there are hugepages
	Private   []string // what is private although the rest is shared
}

// Port is a port of the switch that an interface was given.
type Port struct{ Name, MAC, Socket string }

// Inspect reads a domain's description.
func Inspect(text string) (Domain, error) {
	root, err := parseDomain(text)
	if err != nil {
		return Domain{}, err
	}
	d := Domain{
		Name: strings.TrimSpace(textOf(root.find("name"))), Type: root.attr("type"), Emulator: strings.TrimSpace(textOf(root.find("devices", "emulator"))),
		Machine: root.find("os", "type").attr("machine"), Memory: memoryOf(root),
	}
	for i, n := range root.find("devices").all("interface") {
		d.Interfaces = append(d.Interfaces, interfaceOf(i, n))
	}
	if m := own(root); m != nil {
		d.Attached = true
		for _, p := range m.all(prefix + ":port") {
			d.Ports = append(d.Ports, Port{p.attr("name"), p.attr("mac"), p.attr("socket")})
		}
	}
	return d, nil
}

func parseDomain(text string) (*node, error) {
	root, err := parse(text)
	if err != nil {
		return nil, err
	}
	if root.name != "domain" {
		return nil, fmt.Errorf("this is the XML of a <%s>, not of a domain", root.name)
	}
	if root.find("name") == nil {
		return nil, errors.New("the domain's XML has no name")
	}
	return root, nil
}

func textOf(n *node) string {
	if n == nil {
		return ""
	}
	return n.text
}

func interfaceOf(index int, n *node) Interface {
	queues, _ := strconv.Atoi(n.find("driver").attr("queues"))
	mtu, _ := strconv.Atoi(n.find("mtu").attr("size"))
	i := Interface{
		Index: index, Type: n.attr("type"), MAC: strings.ToLower(n.find("mac").attr("address")), Alias: n.find("alias").attr("name"),
		Model: n.find("model").attr("type"), Queues: queues, MTU: mtu,
	}
	if i.Type == "vhostuser" {
		source := n.find("source")
		i.Socket, i.Mode = source.attr("path"), source.attr("mode")
		i.Reconnect = source.find("reconnect").attr("enabled") == "yes"
	}
	return i
}

// memoryOf follows libvirt: access in memoryBacking holds for all, a NUMA cell's or a DIMM's own setting goes before it.
func memoryOf(root *node) Memory {
	backing := root.find("memoryBacking")
	m := Memory{
		Bytes: size(root.find("memory")), Shared: backing.find("access").attr("mode") == "shared", Hugepages: backing.find("hugepages") != nil,
		Source: backing.find("source").attr("type"),
	}
	cells := root.find("cpu", "numa").all("cell")
	shared := 0
	for i, c := range cells {
		switch c.attr("memAccess") {
		case "private":
			m.Private = append(m.Private, fmt.Sprintf("NUMA cell %d", i))
		case "shared":
			shared++
		}
	}
	if len(cells) > 0 && shared == len(cells) {
		m.Shared = true
	}
	for i, d := range root.find("devices").all("memory") {
		if d.attr("access") == "private" {
			m.Private = append(m.Private, fmt.Sprintf("memory device %d", i))
		}
	}
	if len(m.Private) > 0 {
		m.Shared = false
	}
	return m
}

// size is a <memory> element's in bytes (libvirt's units; KiB where none is said).
func size(n *node) uint64 {
	v, err := strconv.ParseUint(strings.TrimSpace(textOf(n)), 10, 64)
	if err != nil {
		return 0
	}
	units := map[string]uint64{
		"b": 1, "bytes": 1, "kb": 1000, "k": 1 << 10, "kib": 1 << 10, "mb": 1000_000, "m": 1 << 20, "mib": 1 << 20, "gb": 1000_000_000,
		"g": 1 << 30, "gib": 1 << 30, "tb": 1000_000_000_000, "t": 1 << 40, "tib": 1 << 40, "": 1 << 10,
	}
	return v * units[strings.ToLower(n.attr("unit"))]
}

// InterfaceXML is the description of the interface with that address, as libvirt wants it for plugging and unplugging.
func InterfaceXML(text, mac string) (string, error) {
	root, err := parseDomain(text)
	if err != nil {
		return "", err
	}
	for i, n := range root.find("devices").all("interface") {
		if is := interfaceOf(i, n); is.MAC != "" && strings.EqualFold(is.MAC, mac) {
			return text[n.start:n.end], nil
		}
	}
	return "", fmt.Errorf("the domain has no interface with address %s", mac)
}
