package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

func domainChecks() []Check {
	return []Check{
		{ID: "domain", Group: "domain", Title: "the domain is there, and on the switch", Scope: Domain, Run: checkDomain},
		{ID: "domain-restart", Group: "domain", Title: "what runs is what is configured", Scope: Domain, Run: onDomain(checkRestart)},
		{ID: "domain-kvm", Group: "domain", Title: "the guest runs on KVM", Scope: Domain, Run: onDomain(checkDomainKVM)},
		{ID: "domain-qemu", Group: "domain", Title: "the domain's QEMU can do what it is asked to", Scope: Domain, Run: onDomain(checkDomainQEMU)},
		{ID: "boot-c", Group: "domain", Title: "the guest has a boot device (Ubuntu)", Scope: Domain, Run: onDomain(checkBootC)},
		{ID: "hotplug-port", Group: "domain", Title: "there is a PCI port for hot plug", Scope: Domain, Run: onDomain(checkHotplug)},
	}
}

func checkDomain(ctx context.Context, e *Env) Result {
	d, err := e.theDomain(ctx)
	if err != nil {
		if _, connectErr := e.connection(ctx); connectErr != nil {
			return unknown("libvirt does not answer")
		}
		return fail("virsh list --all", "%v", err)
	}
	if !d.next.concerned() {
		return fail("vhostctl attach "+quote(d.Name), "%s has no interface on the switch", d.Name)
	}
	state := "shut off"
	if d.Active {
		state = "running"
	}
	how := fmt.Sprintf("%d interfaces on the switch", len(d.next.onSwitch()))
	if d.next.wrapped() {
		how = "started by qemu-wrap"
	}
	return ok("%s: %s, %s", d.Name, state, how)
}

// checkRestart compares what of the running domain matters here with its configuration.
func checkRestart(_ context.Context, _ *Env, d *domain) Result {
	if !d.Active || !d.Kept {
		return notApplicable("the domain does not run, or is transient")
	}
	fix := "virsh shutdown " + quote(d.Name) + "; virsh start " + quote(d.Name) + "   # a reboot inside is not enough"
	var all []Result
	sockets := func(x description) string {
		var list []string
		for _, n := range x.onSwitch() {
			list = append(list, strings.ToLower(n.MAC.Address)+" "+firstOf(n.Source.Path, n.Backend.Vhost))
		}
		slices.Sort(list)
		return strings.Join(list, "\n")
	}
	if sockets(d.now) != sockets(d.next) {
		all = append(all, warn(fix, "its interfaces were changed since it started"))
	}
	if (d.now.private() == "") != (d.next.private() == "") {
		all = append(all, warn(fix, "its memory was changed since it started: that takes effect at the next start"))
	}
	if d.now.Devices.Emulator != d.next.Devices.Emulator {
		all = append(all, warn(fix, "it runs %s, the next start uses %s", d.now.Devices.Emulator, d.next.Devices.Emulator))
	}
	if len(all) == 0 {
		return ok("the same")
	}
	return merge(all...)
}

func checkDomainKVM(_ context.Context, e *Env, d *domain) Result {
	if d.now.Type == "kvm" {
		return ok("type='kvm'")
	}
	if _, err := e.Files.Stat("/dev/kvm"); err != nil {
		return ok("type='%s': this host has no KVM", d.now.Type)
	}
	return warn("virsh edit "+quote(d.Name)+"   # <domain type='kvm'>", "type='%s': emulated, many times slower", d.now.Type)
}

func checkDomainQEMU(ctx context.Context, e *Env, d *domain) Result {
	emulator := d.now.Devices.Emulator
	if d.now.wrapped() || emulator == "" {
		emulator = e.qemuPath()
	}
	if emulator == "" {
		return unknown("the domain names no emulator")
	}
	if _, err := e.Files.Stat(emulator); err != nil {
		return fail("virsh edit "+quote(d.Name)+"   # <emulator>", "emulator: %v", err)
	}
	v, err := e.qemuVersion(ctx, emulator)
	if err != nil {
		return unknown("%v", err)
	}
	all := []Result{judgeQEMU(v)}
	need := func(from int, what string) {
		if v < from {
			all = append(all, fail("upgrade QEMU", "QEMU %s: %s needs %s", versionText(v), what, versionText(from)))
		}
	}
	if d.next.memfd() {
		need(qemuMemfd, "<source type='memfd'/>")
	}
	for _, n := range d.next.vhostUser() {
		if n.Driver.Queues > 1 {
			need(qemuQueues, "several queues over vhost-user")
		}
		if n.Driver.Packed == "on" {
			need(qemuPacked, "packed='on'")
		}
		if n.reconnects() {
			need(qemuReconnect, "<reconnect/>")
		}
	}
	// Without KVM these versions can take KVM's way to unmask an interrupt vector of a vhost-user device, and crash.
	if d.next.Type == "qemu" && v < 10_000_000 && len(d.next.vhostUser()) > 0 && !d.next.pinInterrupts() {
		all = append(all, warn("virsh edit "+quote(d.Name)+"   # <domain type='kvm'>; or <qemu:commandline> with -global virtio-net-pci.vectors=0",
			"QEMU %s without KVM may crash when the guest uses MSI-X on a vhost-user interface", versionText(v)))
	}
	return merge(all...).from(emulator)
}

// checkBootC is from the guide to DPDK's vhost sample (docs/dpdk-compat.md, 4): on Ubuntu a guest on hugepages did not
// start without a boot device on the command line.
func checkBootC(_ context.Context, e *Env, d *domain) Result {
	release := text(e.Files, "/etc/os-release")
	if !strings.Contains(release, "ID=ubuntu") {
		return notApplicable("not Ubuntu")
	}
	x := d.next
	if x.Backing == nil || x.Backing.Huge == nil {
		return notApplicable("the guest is not on hugepages")
	}
	boots := len(x.OS.Boot) > 0 || x.OS.Kernel != ""
	for _, device := range x.Devices.Others {
		boots = boots || device.Boot != nil
	}
	for _, n := range x.Devices.Interfaces {
		boots = boots || n.Boot != nil
	}
	if boots {
		return ok("a boot device is named").from("/etc/os-release")
	}
	return warn("virsh edit "+quote(d.Name)+"   # <boot dev='hd'/> in <os>   # QEMU's -boot c",
		"no boot device is named: old QEMU on Ubuntu fails to allocate hugepages then").from("/etc/os-release")
}

// checkHotplug counts root ports without a device. Other machines plug into their root bus.
func checkHotplug(_ context.Context, _ *Env, d *domain) Result {
	if !strings.Contains(d.next.OS.Type.Machine, "q35") && !strings.Contains(d.next.OS.Type.Machine, "virt") {
		return notApplicable("the machine %s has a bus with free slots", d.next.OS.Type.Machine)
	}
	ports, used := map[int]bool{}, 0
	var addresses []address
	for _, c := range d.now.Devices.Others {
		addresses = append(addresses, c.Address)
		if c.XMLName.Local == "controller" && c.Model == "pcie-root-port" {
			ports[number(c.Index)] = true
		}
	}
	for _, n := range d.now.Devices.Interfaces {
		addresses = append(addresses, n.Address)
	}
	for _, a := range addresses {
		if bus := number(a.Bus); a.Type == "pci" && ports[bus] {
			used++
			delete(ports, bus)
		}
	}
	if len(ports) == 0 {
		return warn("virsh edit "+quote(d.Name)+"   # add <controller type='pci' model='pcie-root-port'/>",
			"all %d root ports are taken: no interface can be attached while the guest runs", used)
	}
	return ok("%d of %d root ports are free", len(ports), len(ports)+used)
}
