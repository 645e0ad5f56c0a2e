package doctor

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

func securityChecks() []Check {
	return []Check{
		{ID: "selinux", Group: "security", Title: "SELinux lets QEMU reach the switch", Scope: Host, Run: checkSELinux},
		{ID: "apparmor", Group: "security", Title: "AppArmor lets libvirt use the wrapper", Scope: Host, Run: checkAppArmor},
		{ID: "device-acl", Group: "security", Title: "QEMU can get the device of vhost-cuse", Scope: Host, Run: checkDeviceACL},
		{ID: "qemu-namespaces", Group: "security", Title: "libvirt isolates QEMU's /dev", Scope: Host, Run: checkNamespaces},
		{ID: "same-world", Group: "security", Title: "libvirt and switchd share mount and user namespaces", Scope: Host, Run: checkSameWorld},
	}
}

const selinuxAttribute = "security.selinux"

// labelType is the third part of user:role:type:level.
func labelType(label string) string {
	if parts := strings.Split(label, ":"); len(parts) > 2 {
		return parts[2]
	}
	return ""
}

// Types of sockets that libvirt's policy lets a confined QEMU write to.
var socketTypes = []string{"svirt_image_t", "svirt_tmpfs_t", "svirt_tmp_t", "qemu_var_run_t", "virt_var_run_t", "openvswitch_var_run_t", "svirt_var_run_t"}

func checkSELinux(ctx context.Context, e *Env) Result {
	mode := text(e.Files, "/sys/fs/selinux/enforce")
	switch mode {
	case "":
		return notApplicable("this host has no SELinux")
	case "0":
		return ok("permissive: nothing is refused").from("/sys/fs/selinux/enforce")
	}
	var all []Result
	if file, _ := e.wrapper(ctx); file != "" {
		all = append(all, judgeLabel(e, file, file, "qemu_exec_t", "qemu_exec_t"))
	}
	if _, err := e.Files.Stat(e.SocketDir); err == nil {
		all = append(all, judgeLabel(e, e.SocketDir, e.SocketDir+"(/.*)?", "svirt_image_t", socketTypes...))
	}
	if len(all) == 0 {
		return ok("enforcing; neither wrapper nor sockets are there to be labelled").from("/sys/fs/selinux/enforce")
	}
	return merge(all...).from("/sys/fs/selinux/enforce")
}

func judgeLabel(e *Env, file, pattern, advice string, good ...string) Result {
	have := labelType(e.Files.Attribute(file, selinuxAttribute))
	switch {
	case have == "":
		return unknown("the label of %s cannot be read", file)
	case slices.Contains(good, have):
		return ok("%s is %s", file, have)
	}
	return warn(fmt.Sprintf("semanage fcontext -a -t %s %s && restorecon -Rv %s   # then: ausearch -m avc -ts recent", advice, quoteAlways(pattern), quote(file)),
		"%s is %s: a confined QEMU may be refused", file, have)
}

// Files that make up AppArmor's rules for libvirt, each with what the administrator adds.
const (
	abstraction      = "/etc/apparmor.d/abstractions/libvirt-qemu"
	localAbstraction = "/etc/apparmor.d/local/abstractions/libvirt-qemu"
	daemonProfile    = "/etc/apparmor.d/usr.sbin.libvirtd"
	localDaemon      = "/etc/apparmor.d/local/usr.sbin.libvirtd"
)

func checkAppArmor(ctx context.Context, e *Env) Result {
	if text(e.Files, "/sys/module/apparmor/parameters/enabled") != "Y" {
		return notApplicable("this host has no AppArmor")
	}
	if readConf(e.Files, qemuConf).value("security_driver") == "none" {
		return notApplicable("qemu.conf switches security drivers off")
	}
	file, _ := e.wrapper(ctx)
	if file == "" {
		return ok("nothing to allow: libvirt itself allows the sockets of vhost-user interfaces")
	}
	if _, err := e.Files.Stat(abstraction); err != nil {
		return notApplicable("libvirt has no AppArmor profile here")
	}
	guest := text(e.Files, abstraction) + "\n" + text(e.Files, localAbstraction)
	daemon := text(e.Files, daemonProfile) + "\n" + text(e.Files, localDaemon)
	var all []Result
	const install = "vhostctl host setup"
	if !mentions(guest, file) {
		all = append(all, fail(install+"   # or add to "+localAbstraction+":  "+file+" rmix,", "no rule for %s: cannot execute binary: Permission denied", file))
	}
	if !mentions(guest, path.Dir(e.SocketDir)) {
		all = append(all, fail(install+"   # or add to "+localAbstraction+":  "+path.Dir(e.SocketDir)+"/** rw,",
			"no rule for switchd's sockets in %s", path.Dir(e.SocketDir)))
	}
	if dir := path.Dir(file); dir != "/usr/bin" && dir != "/usr/sbin" && !mentions(daemon, file) {
		all = append(all, fail(install+"   # or add to "+localDaemon+":  "+file+" PUx,", "libvirtd may not start programs from %s", dir))
	}
	if len(all) == 0 {
		return ok("rules for %s and the sockets are there", file).from(localAbstraction)
	}
	return merge(all...).from(localAbstraction)
}

// mentions looks for a path in rules, not in comments.
func mentions(rules, what string) bool {
	for _, line := range strings.Split(rules, "\n") {
		if strings.Contains(stripComment(line), what) {
			return true
		}
	}
	return false
}

// checkDeviceACL: a descriptor from switchd needs no entry, because cgroups ask only when a device is opened.
func checkDeviceACL(ctx context.Context, e *Env) Result {
	devices := e.cuseDevices(ctx)
	if len(devices) == 0 {
		return notApplicable("nothing is configured for vhost-cuse")
	}
	version := "v1"
	if _, err := e.Files.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		version = "v2"
	}
	c := readConf(e.Files, qemuConf)
	broker := path.Join(path.Dir(e.SocketDir), "qemu.sock")
	_, err := e.Files.Stat(broker)
	var all []Result
	for _, device := range devices {
		switch {
		case slices.Contains(c["cgroup_device_acl"], device):
			all = append(all, ok("%s is in cgroup_device_acl (cgroup %s)", device, version))
		case err == nil:
			all = append(all, ok("%s comes from switchd over %s (cgroup %s)", device, broker, version))
		default:
			all = append(all, fail("vhostctl host setup --device "+quote(device)+"   # or start switchd, which passes descriptors",
				"QEMU may not open %s (cgroup %s), and switchd passes no descriptors at %s", device, version, broker))
		}
	}
	return merge(all...).from(qemuConf)
}

func checkNamespaces(_ context.Context, e *Env) Result {
	if !e.libvirtInstalled() {
		return notApplicable("libvirt is not installed")
	}
	c := readConf(e.Files, qemuConf)
	var all []Result
	if c.set("namespaces") && len(c["namespaces"]) == 0 {
		all = append(all, warn("remove namespaces = [] from "+qemuConf+" and restart libvirtd",
			"namespaces = [] shows the host's whole /dev to every guest's QEMU; nothing here needs it"))
	}
	if c.value("user") == "root" || c.value("user") == "+0" {
		all = append(all, warn("remove user, group and clear_emulator_capabilities from "+qemuConf+" and restart libvirtd",
			"QEMU runs as root; nothing here needs it"))
	}
	if len(all) == 0 {
		return ok("own /dev, own user").from(qemuConf)
	}
	return merge(all...).from(qemuConf)
}

// checkSameWorld matters where one of the two runs in a container.
func checkSameWorld(ctx context.Context, e *Env) Result {
	list, err := e.processes()
	if err != nil {
		return unknown("%v", err)
	}
	daemon, running := libvirtDaemon(list)
	if !running || e.Switch == nil {
		return notApplicable("needs both daemons")
	}
	v, err := e.Switch.Version(ctx)
	if err != nil {
		return notApplicable("needs both daemons")
	}
	user := func(pid int) string {
		s, _ := e.Files.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
		return s
	}
	a, b := user(daemon.PID), user(v.PID)
	if a == "" || b == "" {
		return unknown("the namespaces may be read by root only")
	}
	if a != b {
		return warn("run both on the host, or both in one container", "%s and switchd are in different user namespaces: numbers of users differ, "+
			"and vhost-cuse cannot reach QEMU's memory", daemon.Comm)
	}
	seen, err := e.Files.Stat(fmt.Sprintf("/proc/%d/root%s", daemon.PID, e.SocketDir))
	here, err2 := e.Files.Stat(fmt.Sprintf("/proc/%d/root%s", v.PID, e.SocketDir))
	if err2 == nil && (err != nil || seen.Inode != here.Inode || seen.Device != here.Device) {
		return fail("bind-mount "+e.SocketDir+" into libvirt's container", "%s does not see switchd's sockets in %s", daemon.Comm, e.SocketDir)
	}
	return ok("same users, same sockets")
}
