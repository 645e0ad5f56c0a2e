package doctor

import (
	"context"
	"fmt"
	"path"
	"strings"
)

func kernelChecks() []Check {
	return []Check{
		{ID: "kvm", Group: "kernel", Title: "KVM is usable", Scope: Host, Run: checkKVM},
		{ID: "cuse", Group: "kernel", Title: "the kernel has CUSE, for vhost-cuse", Scope: Host, Run: checkCUSE},
		{ID: "eventfd-link", Group: "kernel", Title: "obsolete module eventfd_link is not loaded", Scope: Host, Run: checkEventfdLink},
		{ID: "nic-82599", Group: "kernel", Title: "an 82599 can be driven from user space", Scope: Host, Run: check82599},
	}
}

// checkKVM does not open the device: on some virtual hosts that works and running a guest hangs.
func checkKVM(ctx context.Context, e *Env) Result {
	info, err := e.Files.Stat("/dev/kvm")
	if err != nil {
		cpu := text(e.Files, "/proc/cpuinfo")
		fix := "modprobe kvm_intel || modprobe kvm_amd"
		if cpu != "" && !strings.Contains(cpu, " vmx") && !strings.Contains(cpu, " svm") {
			fix = "switch virtualisation (VT-x, AMD-V) on in the firmware, or nested virtualisation on at the host of this host"
		}
		return warn(fix, "no /dev/kvm: QEMU emulates, many times slower").from("/dev/kvm")
	}
	who, err := e.qemuUser(ctx)
	if err != nil {
		return ok("/dev/kvm is there").from("/dev/kvm")
	}
	if !who.may(info, 6) && e.Files.Attribute("/dev/kvm", aclAttribute) == "" {
		return warn("chgrp kvm /dev/kvm && chmod 0660 /dev/kvm && usermod -aG kvm "+who.Name,
			"/dev/kvm (mode %04o, owner %d:%d) is closed to %s", info.Mode.Perm(), info.UID, info.GID, who.Name).from("/dev/kvm")
	}
	return ok("/dev/kvm is open to %s", who.Name).from("/dev/kvm")
}

// cuseDevices are the character devices of vhost-cuse that this host uses or means to use.
func (e *Env) cuseDevices(ctx context.Context) []string {
	seen := map[string]bool{}
	for _, file := range []string{"/etc/vhostkit/switchd.toml", wrapperConf} {
		c := readConf(e.Files, file)
		for _, d := range c["device"] {
			seen[d] = true
		}
		if b := c.value("backend"); b == "cuse" || b == "both" {
			names := c["dev-basename"]
			if len(names) == 0 {
				names = []string{"usvhost"}
			}
			for _, name := range names {
				seen["/dev/"+name] = true
			}
		}
		if c.value("mode") == "cuse" {
			seen[firstOf(c.value("us_vhost_path"), "/dev/usvhost")] = true
		}
	}
	if e.Domain != "" {
		if d, err := e.theDomain(ctx); err == nil {
			for _, n := range d.next.Devices.Interfaces {
				if n.cuse() {
					seen[n.Backend.Vhost] = true
				}
			}
		}
	}
	return sortedKeys(seen)
}

func checkCUSE(ctx context.Context, e *Env) Result {
	devices := e.cuseDevices(ctx)
	if len(devices) == 0 {
		return notApplicable("nothing is configured for vhost-cuse")
	}
	if _, err := e.Files.Stat("/dev/cuse"); err != nil {
		return fail("modprobe cuse && echo cuse > /etc/modules-load.d/cuse.conf", "no /dev/cuse: the module cuse is not loaded").from("/dev/cuse")
	}
	var all []Result
	who, userErr := e.qemuUser(ctx)
	for _, device := range devices {
		info, err := e.Files.Stat(device)
		switch {
		case err != nil:
			all = append(all, fail("systemctl restart switchd", "%s is not there: switchd makes it when it serves vhost-cuse", device))
		case userErr == nil && !who.may(info, 6):
			// switchd passes descriptors to those who may not open the device, but libvirt's <backend vhost=> opens it itself as root.
			all = append(all, ok("%s (mode %04o) is closed to %s; switchd passes descriptors", device, info.Mode.Perm(), who.Name))
		default:
			all = append(all, ok("%s is there", device))
		}
	}
	return merge(all...).from(strings.Join(devices, " "))
}

func checkEventfdLink(_ context.Context, e *Env) Result {
	if _, err := e.Files.Stat("/sys/module/eventfd_link"); err == nil {
		return warn("rmmod eventfd_link", "eventfd_link is loaded: it lets every user take descriptors of every process, and vhostkit does not need it").
			from("/sys/module")
	}
	return ok("not loaded").from("/sys/module")
}

// is82599 knows the device identifiers of the 82599 family's physical functions.
func is82599(vendor, device string) bool {
	return vendor == "0x8086" && strings.Contains(" 0x10f7 0x10f8 0x10f9 0x10fb 0x10fc 0x1507 0x1514 0x1517 0x151c 0x1529 0x152a 0x154a 0x154d 0x1557 0x1558 ",
		" "+device+" ")
}

func check82599(ctx context.Context, e *Env) Result {
	const dir = "/sys/bus/pci/devices"
	names, _ := e.Files.ReadDir(dir)
	var all []Result
	for _, name := range names {
		at := path.Join(dir, name)
		if !is82599(text(e.Files, at+"/vendor"), text(e.Files, at+"/device")) {
			continue
		}
		driver, _ := e.Files.Readlink(at + "/driver")
		all = append(all, judge82599(e, name, path.Base(driver)))
	}
	if len(all) == 0 {
		return notApplicable("no 82599 in this host")
	}
	return merge(all...).from(dir)
}

func judge82599(e *Env, address, driver string) Result {
	groups, _ := e.Files.ReadDir("/sys/kernel/iommu_groups")
	iommu := "add intel_iommu=on iommu=pt (AMD: amd_iommu=on) to the kernel's command line and reboot"
	switch {
	case driver == "uio_pci_generic":
		return warn("vhostctl nic bind "+address+" --driver vfio-pci, where there is an IOMMU",
			"%s is bound to uio_pci_generic: switchd drives it with --unprotected-dma 1 only, and it can reach all memory of this host", address)
	case driver != "vfio-pci":
		detail := fmt.Sprintf("%s is bound to %s: the kernel's, not switchd's", address, driver)
		if driver == "." || driver == "" {
			detail = fmt.Sprintf("%s has no driver", address)
		}
		if len(groups) == 0 {
			detail += ", and there is no IOMMU"
		}
		return ok("%s", detail)
	case len(groups) == 0:
		return fail(iommu, "%s is bound to vfio-pci, but the kernel has no IOMMU", address)
	}
	if _, err := e.Files.Readlink(path.Join("/sys/bus/pci/devices", address, "iommu_group")); err != nil {
		return fail(iommu, "%s is in no IOMMU group", address)
	}
	return ok("%s is bound to vfio-pci, with an IOMMU", address)
}
