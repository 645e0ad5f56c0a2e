package domainxml

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Options say what Attach shall do.
type Options struct {
	Select []string // MAC addresses, aliases, indices (0 or net0), or "all"
	CUSE   string   // the vhost-cuse device that libvirt shall open; empty: vhost-user
	Memory string   // MemoryMemfd, MemoryHugepages, MemoryKeep
	Queues int      // queue pairs; 0 leaves them
	// Port gives an interface's port: its name and its socket.
	Port func(Interface) (name, socket string, err error)
}

// Where the guest's memory comes from.
const (
	MemoryMemfd     = "memfd"     // shared memory of ordinary pages, unless the domain has hugepages already
	MemoryHugepages = "hugepages" // shared memory of hugepages
	MemoryKeep      = "keep"      // whatever the domain has
)

// Result is a rewritten description.
type Result struct {
	XML     string
	Changes []string // what was changed, a line each; none: the description is as it shall be
	Ports   []Port   // that the selected interfaces have
}

// attachment is one Attach under way.
type attachment struct {
	editor
	options Options
	changes []string
	ports   []Port
	given   []Port      // by an earlier Attach
	all     []Interface // of the domain
}

func (a *attachment) changed(format string, args ...any) {
	a.changes = append(a.changes, fmt.Sprintf(format, args...))
}

// Attach puts the selected interfaces on the switch and makes the memory shared. The original is kept in the metadata. What is right already
// stays as it is.
func Attach(text string, o Options) (Result, error) {
	root, err := parseDomain(text)
	if err != nil {
		return Result{}, err
	}
	a := &attachment{editor: editor{text: text}, options: o}
	selected, err := selectInterfaces(root, o.Select)
	if err != nil {
		return Result{}, err
	}
	if n := own(root); n != nil {
		a.given = portsOf(n)
	}
	for i, n := range root.find("devices").all("interface") {
		a.all = append(a.all, interfaceOf(i, n))
	}
	for _, i := range selected {
		n := root.find("devices").all("interface")[i.Index]
		if o.CUSE != "" {
			err = a.useCUSE(n, i)
		} else {
			err = a.useVhostUser(n, i)
		}
		if err != nil {
			return Result{}, err
		}
	}
	if o.Memory != MemoryKeep {
		a.share(root)
	}
	if len(a.changes) == 0 {
		return Result{XML: text, Ports: a.ports}, nil
	}
	rewritten, err := remember(text, a.apply(), a.ports)
	if err != nil {
		return Result{}, err
	}
	return Result{rewritten, a.changes, a.ports}, nil
}

// selectInterfaces finds what the selectors name. Each must name something.
func selectInterfaces(root *node, selectors []string) ([]Interface, error) {
	var all, chosen []Interface
	for i, n := range root.find("devices").all("interface") {
		all = append(all, interfaceOf(i, n))
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the domain has no network interfaces: add one with virsh attach-interface, or virsh edit")
	}
	if len(selectors) == 0 && len(all) == 1 {
		selectors = []string{"all"}
	}
	if len(selectors) == 0 {
		return nil, fmt.Errorf("the domain has %d network interfaces: say which with --interface (%s, or all)", len(all), describe(all))
	}
	for _, s := range selectors {
		found := false
		for _, i := range all {
			if s == "all" || i.is(s) {
				found = true
				if !slices.ContainsFunc(chosen, func(c Interface) bool { return c.Index == i.Index }) {
					chosen = append(chosen, i)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("no interface is called %s: the domain has %s", s, describe(all))
		}
	}
	return chosen, nil
}

// is tells whether a selector names the interface.
func (i Interface) is(s string) bool {
	return s == strconv.Itoa(i.Index) || i.MAC != "" && strings.EqualFold(s, i.MAC) || s == i.Alias && s != "" ||
		i.Alias == "" && s == "net"+strconv.Itoa(i.Index)
}

func describe(all []Interface) string {
	var list []string
	for _, i := range all {
		list = append(list, fmt.Sprintf("%d: %s %s", i.Index, i.Type, i.MAC))
	}
	return strings.Join(list, ", ")
}

// keeps are the elements of an interface that mean the same on a vhost-user interface.
var keeps = []string{"mac", "model", "driver", "address", "alias", "boot", "link", "rom", "acpi", "teaming"}

// loses says why an element that somebody may count on cannot stay. What is not in here belongs to the old connection alone.
var loses = map[string]string{
	"mtu":         "libvirt cannot start a vhost-user interface with it: set the MTU in the guest",
	"bandwidth":   "libvirt cannot limit what goes past the kernel",
	"filterref":   "libvirt cannot filter what goes past the kernel",
	"vlan":        "libvirt cannot tag what goes past the kernel: each port of switchd has a VLAN of its own",
	"port":        "libvirt cannot isolate what goes past the kernel",
	"virtualport": "not supported by switchd",
	"coalesce":    "there is no kernel interface to coalesce for",
}

// useVhostUser makes an interface a vhost-user interface.
func (a *attachment) useVhostUser(n *node, i Interface) error {
	if err := checkModel(i); err != nil {
		return err
	}
	name, socket, err := a.port(i)
	if err != nil {
		return err
	}
	a.ports = append(a.ports, Port{name, i.MAC, socket})
	if i.Type == "vhostuser" && i.Socket == socket && i.Mode == "client" && i.Reconnect && !a.wantsQueues(i) {
		return nil
	}
	a.setAttr(n, "type", "vhostuser")
	lines := []string{
		"<source type='unix' path='" + escapeAttr(socket, '\'') + "' mode='client'>", "  <reconnect enabled='yes' timeout='1'/>", "</source>",
	}
	placed := false
	for _, c := range n.children {
		if slices.Contains(keeps, c.name) {
			continue
		}
		if c.name == "source" && !placed { // the new one in its place
			placed = true
			a.replace(c.start, c.end, strings.Join(lines, "\n"+a.indent(c)))
			continue
		}
		a.editor.remove(c)
		if why := loses[c.name]; why != "" {
			a.changed("interface %s: removed <%s>: %s", i.name(), c.name, why)
		}
	}
	if i.Model == "" {
		lines = append(lines, "<model type='virtio'/>")
	}
	if placed {
		lines = lines[3:]
	}
	lines = append(lines, a.queues(n, i)...)
	if len(lines) > 0 {
		a.add(n, lines...)
	}
	a.changed("interface %s: on the switch by vhost-user, socket %s (was of type %s)", i.name(), socket, i.Type)
	return nil
}

// port is the interface's port: the one that it has already, even if others have gone before it since, or a new one, which nobody else has.
func (a *attachment) port(i Interface) (name, socket string, err error) {
	for _, p := range a.given {
		if i.Type == "vhostuser" && i.Socket == p.Socket {
			return p.Name, p.Socket, nil
		}
	}
	if name, socket, err = a.options.Port(i); err != nil {
		return "", "", err
	}
	for _, other := range a.all {
		if other.Index != i.Index && other.Type == "vhostuser" && other.Socket == socket {
			return "", "", fmt.Errorf("interface %s would get port %s, which interface %s has: vhostctl detach the domain, then attach all of them",
				i.name(), name, other.name())
		}
	}
	return name, socket, nil
}

// name is what messages call the interface.
func (i Interface) name() string {
	if i.MAC != "" {
		return i.MAC
	}
	return strconv.Itoa(i.Index)
}

func checkModel(i Interface) error {
	if m := i.Model; m != "" && m != "virtio" && m != "virtio-transitional" && m != "virtio-non-transitional" {
		return fmt.Errorf("interface %s is a %s for the guest: the switch needs <model type='virtio'/> (virsh edit; the guest must have the driver)",
			i.name(), m)
	}
	if i.Type == "hostdev" || i.Type == "vdpa" {
		return fmt.Errorf("interface %s is of type %s, a device of its own that cannot be on the switch", i.name(), i.Type)
	}
	return nil
}

func (a *attachment) wantsQueues(i Interface) bool {
	return a.options.Queues > 0 && max(i.Queues, 1) != a.options.Queues
}

// queues sets the number of queue pairs; the answer are lines to be added to the interface.
func (a *attachment) queues(n *node, i Interface) []string {
	if !a.wantsQueues(i) {
		return nil
	}
	a.changed("interface %s: %d queue pairs", i.name(), a.options.Queues)
	if d := n.find("driver"); d != nil {
		a.setAttr(d, "queues", strconv.Itoa(a.options.Queues))
		return nil
	}
	return []string{fmt.Sprintf("<driver queues='%d'/>", a.options.Queues)}
}

// share makes the guest's memory shared, where it is not.
func (a *attachment) share(root *node) {
	backing := root.find("memoryBacking")
	huge := a.options.Memory == MemoryHugepages
	var lines []string
	if huge && backing.find("hugepages") == nil {
		a.changed("memory: from hugepages")
		lines = append(lines, "<hugepages/>")
	}
	switch source := backing.find("source"); {
	case source == nil && (backing.find("hugepages") == nil || huge):
		a.changed("memory: in a memfd")
		lines = append(lines, "<source type='memfd'/>")
	case source != nil && source.attr("type") == "anonymous":
		a.changed("memory: in a memfd instead of anonymous")
		a.setAttr(source, "type", "memfd")
	}
	switch access := backing.find("access"); {
	case access == nil:
		a.changed("memory: shared with the switch")
		lines = append(lines, "<access mode='shared'/>")
	case access.attr("mode") != "shared":
		a.changed("memory: shared with the switch, was %s", access.attr("mode"))
		a.setAttr(access, "mode", "shared")
	}
	for i, c := range root.find("cpu", "numa").all("cell") {
		if c.attr("memAccess") == "private" {
			a.changed("memory of NUMA cell %d: shared, was private", i)
			a.setAttr(c, "memAccess", "shared")
		}
	}
	for i, d := range root.find("devices").all("memory") {
		if d.attr("access") == "private" {
			a.changed("memory device %d: shared, was private", i)
			a.setAttr(d, "access", "shared")
		}
	}
	switch {
	case len(lines) == 0:
	case backing != nil:
		a.add(backing, lines...)
	default:
		for i, l := range lines {
			lines[i] = "  " + l
		}
		a.after(memoryAnchor(root), slices.Concat([]string{"<memoryBacking>"}, lines, []string{"</memoryBacking>"})...)
	}
}

// memoryAnchor is the element behind which memoryBacking stands in what libvirt writes.
func memoryAnchor(root *node) *node {
	for _, name := range []string{"currentMemory", "memory", "name"} {
		if n := root.find(name); n != nil {
			return n
		}
	}
	return root.children[0]
}
