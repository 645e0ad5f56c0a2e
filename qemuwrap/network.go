package qemuwrap

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vhostkit/switchd/control"
)

// networks puts the selected tap interfaces on the switch.
func (r *rewriter) networks() error {
	if err := r.convertLegacyNetworks(); err != nil {
		return err
	}
	for i := 0; i < len(r.options); i++ {
		o := &r.options[i]
		if !o.is("netdev") && !(o.is("net") && r.config.Mode == ModeCUSE) {
			continue
		}
		k, err := parseKeyval(o.value(), "type")
		if err != nil {
			return fmt.Errorf("-%s: %w", o.name, err)
		}
		if k.text("type") != "tap" || !r.selected(k) {
			continue
		}
		if r.config.Mode == ModeCUSE {
			err = r.toCUSE(k)
			o.setValue(k.String())
		} else {
			i, err = r.toVhostUser(i, k)
		}
		if err != nil {
			return err
		}
		r.rewritten[k.text("id")] = true
	}
	return nil
}

// selected tells whether an interface is to be on the switch. Without a setting these are: in vhost-user mode all taps; in cuse mode, as it
// always was, those that speak of vhost.
func (r *rewriter) selected(k *keyval) bool {
	list := r.config.Interfaces
	if len(list) == 0 {
		return r.config.Mode == ModeVhostUser || slices.ContainsFunc(k.members, func(m member) bool { return strings.HasPrefix(m.key, "vhost") })
	}
	if slices.Contains(list, "all") || slices.Contains(list, k.text("id")) {
		return true
	}
	for _, o := range r.options {
		if !o.is("device") {
			continue
		}
		if d, err := parseKeyval(o.value(), "driver"); err == nil && d.text("netdev") == k.text("id") && k.text("id") != "" {
			mac := d.text("mac")
			if slices.ContainsFunc(list, func(s string) bool { return s == d.text("id") || mac != "" && strings.EqualFold(s, mac) }) {
				return true
			}
		}
	}
	return false
}

// queuePairs is how many queue pairs a tap netdev has.
func queuePairs(k *keyval) int {
	if fds, ok := k.get("fds"); ok {
		return strings.Count(fds, ":") + 1
	}
	if n, err := strconv.Atoi(k.text("queues")); err == nil && n > 0 && n <= 256 {
		return n
	}
	return 1
}

// toCUSE gives a tap netdev the descriptors of the vhost-cuse device, one for each queue pair.
func (r *rewriter) toCUSE(k *keyval) error {
	k.remove(func(key string) bool { return strings.HasPrefix(key, "vhost") })
	pairs := queuePairs(k)
	var fds []string
	for range pairs {
		fd, err := r.openDevice()
		if err != nil {
			return err
		}
		fds = append(fds, strconv.Itoa(fd))
	}
	k.set("vhost", true)
	key := "vhostfd"
	if _, multi := k.get("fds"); multi || pairs > 1 {
		key = "vhostfds"
	}
	k.set(key, strings.Join(fds, ":"))
	r.because("netdev %s: vhost=on with %d descriptor(s) of %s, so that switchd serves its queues (mode = %q)", k.text("id"), pairs,
		r.config.USVhostPath, ModeCUSE)
	return nil
}

// openDevice opens the vhost-cuse device, or has switchd do it where this process may not: libvirt's QEMUs see a /dev of their own.
func (r *rewriter) openDevice() (int, error) {
	path := r.config.USVhostPath
	if r.system.DryRun {
		return 0, nil
	}
	fd, err := r.system.Open(path)
	if err == nil {
		return fd, nil
	}
	fd, brokerErr := r.system.Switch.OpenDevice(r.ctx, path)
	if brokerErr == nil {
		return fd, nil
	}
	return -1, fmt.Errorf("cannot open %s (%w), and switchd does not hand it out (%w): start switchd with --dev-basename and --device %s", path,
		err, brokerErr, path)
}

// toVhostUser makes a tap netdev a vhost-user netdev, and returns where it is now. The tap's descriptors stay open: they are libvirt's.
func (r *rewriter) toVhostUser(i int, k *keyval) (int, error) {
	id := k.text("id")
	if id == "" {
		return i, fmt.Errorf("-netdev %s has no id, so no device can use it", k)
	}
	path, err := r.socket(id)
	if err != nil {
		return i, err
	}
	chardev := "vhostkit-" + id
	wait := "reconnect=1"
	if r.qemu().AtLeast(9, 2) {
		wait = "reconnect-ms=1000"
	}
	r.insert(i, newOption("chardev", "socket,id="+doubleCommas(chardev)+",path="+doubleCommas(path)+","+wait))
	pairs := queuePairs(k)
	n := &keyval{isJSON: k.isJSON, first: "type"}
	n.members = []member{{"type", "vhost-user"}}
	if n.isJSON {
		n.members[0].raw = `"vhost-user"`
	}
	n.set("id", id)
	n.set("chardev", chardev)
	if pairs > 1 {
		n.set("queues", uint64(pairs))
	}
	r.options[i+1].setValue(n.String())
	r.because("netdev %s: vhost-user on %s instead of a tap (mode = %q)", id, path, ModeVhostUser)
	return i + 1, nil
}

func doubleCommas(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// socket is where an interface is plugged in: its own port, or the shared socket of the configuration.
func (r *rewriter) socket(id string) (string, error) {
	if r.config.Socket != "" {
		return r.config.Socket, nil
	}
	name := r.portName(id)
	if r.system.DryRun {
		return "(socket of port " + name + ")", nil
	}
	path, err := r.system.Switch.Plug(r.ctx, name)
	if err != nil {
		return "", fmt.Errorf("asking switchd for port %s: %w", name, err)
	}
	return path, nil
}

// PortName is the name of the port that a machine's netdev is given: the same at each start.
func PortName(machine, netdev string) string { return control.PortName(machine, netdev) }

// portName is PortName, but two interfaces of a line never share one.
func (r *rewriter) portName(id string) string {
	clean := PortName(r.guest(), id)
	name := clean
	for n := 2; r.names[name]; n++ {
		suffix := "-" + strconv.Itoa(n)
		name = clean[:min(len(clean), control.MaxPortName-len(suffix))] + suffix
	}
	r.names[name] = true
	return name
}

// offloadsOff is what the guide to DPDK's vhost sample turns off, in its order (docs/dpdk-compat.md, 4).
var offloadsOff = []string{"csum", "gso", "guest_tso4", "guest_tso6", "guest_ecn"}

// offloads turns the offloads off on every virtio-net device of a rewritten netdev, wherever it stands.
func (r *rewriter) offloads() error {
	for i := range r.options {
		o := &r.options[i]
		if !o.is("device") {
			continue
		}
		k, err := parseKeyval(o.value(), "driver")
		if err != nil {
			return fmt.Errorf("-device: %w", err)
		}
		if netdev := k.text("netdev"); netdev == "" || !strings.HasPrefix(k.text("driver"), "virtio-net") || !r.rewritten[netdev] {
			continue
		}
		changed := false
		for _, key := range offloadsOff {
			if k.set(key, false) {
				changed = true
			}
		}
		if changed {
			o.setValue(k.String())
			r.because("device %s: %s off, because switchd passes frames on as they are", name(k), strings.Join(offloadsOff, ", "))
		}
	}
	return nil
}

// name is what a device is called in messages.
func name(k *keyval) string {
	if id := k.text("id"); id != "" {
		return id
	}
	return k.text("driver")
}
