package hostsetup

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vhostkit/internal/mntent"
)

// command adds a command, or a note where it cannot be run: its program is missing, or it is not the running system that is changed.
func (p *planner) command(why string, argv ...string) {
	if p.system.Find(argv[0]) {
		p.plan.Commands = append(p.plan.Commands, Command{argv, why})
	} else {
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("run %s: %s", strings.Join(argv, " "), why))
	}
}

const wrapperLabel = "qemu_exec_t"

// seLinux labels the wrapper as QEMU is labelled, where SELinux is on.
func (p *planner) seLinux() error {
	w := p.options.Wrapper
	if w == "" || !p.exists("/sys/fs/selinux/enforce") {
		return nil
	}
	rules, _ := p.read("/etc/selinux/targeted/contexts/files/file_contexts.local")
	known := slices.ContainsFunc(strings.Split(rules, "\n"), func(line string) bool {
		f := strings.Fields(line)
		return len(f) > 1 && f[0] == w && strings.Contains(f[len(f)-1], ":"+wrapperLabel+":")
	})
	if !known {
		p.command("so that libvirt's domains may execute the wrapper", "semanage", "fcontext", "--add", "--type", wrapperLabel, w)
		if p.system.Find("semanage") {
			p.done.Label = w
		}
	}
	if !known || p.label(w) != wrapperLabel {
		p.command("so that the label is on the file", "restorecon", "-v", w)
	}
	return nil
}

// label is the type in a file's SELinux label.
func (p *planner) label(path string) string {
	buffer := make([]byte, 256)
	n, err := unix.Getxattr(p.path(path), "security.selinux", buffer)
	if err != nil {
		return ""
	}
	if parts := strings.Split(string(buffer[:n]), ":"); len(parts) > 2 {
		return strings.TrimRight(parts[2], "\x00")
	}
	return ""
}

// reloads makes those who read the changed files read them again.
func (p *planner) reloads() {
	for _, path := range p.plan.Files {
		if path == udevRules && p.exists("/run/udev/control") {
			p.command("so that udev knows its rules", "udevadm", "control", "--reload")
			p.command("so that devices which are there already get them", "udevadm", "trigger", "--subsystem-match=cuse")
		}
		// libvirt reads the abstraction itself at each start of a domain.
		profile, local := strings.CutPrefix(path, appArmorLocal)
		enabled, _ := p.read("/sys/module/apparmor/parameters/enabled")
		if local && path != appArmorQEMU && strings.HasPrefix(enabled, "Y") {
			p.command("so that AppArmor knows the daemon's rules", "apparmor_parser", "--replace", appArmor+"/"+profile)
		}
	}
}

// capabilityCache makes libvirt ask again what QEMU can do, if QEMU was replaced after the wrapper: libvirt goes by the ctime of the
// emulator that it knows, which is the wrapper.
func (p *planner) capabilityCache() {
	if p.options.Wrapper == "" || slices.Contains(p.plan.Files, p.options.Wrapper) {
		return // a new file has a new ctime
	}
	qemu, _, err := p.emulator()
	wrapper, err2 := os.Stat(p.path(p.options.Wrapper))
	if err == nil && err2 == nil && changedAt(qemu) > changedAt(wrapper) {
		p.command("QEMU is newer than the wrapper: libvirt asks again what it can do", "touch", "--no-create", p.options.Wrapper)
	}
}

// changedAt is a file's ctime in nanoseconds.
func changedAt(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ctim.Nano()
	}
	return 0
}

// restart is for qemu.conf, which libvirt reads when it starts, and for new hugepage mounts.
func (p *planner) restart() {
	unit := "libvirtd"
	if p.exists("/usr/lib/systemd/system/virtqemud.service") && !p.exists("/usr/lib/systemd/system/libvirtd.service") {
		unit = "virtqemud"
	}
	const why = "so that libvirt reads qemu.conf and asks the wrapper anew what QEMU can do; running domains go on"
	if p.options.Restart {
		p.command(why, "systemctl", "try-restart", unit+".service")
	} else {
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("restart libvirt (systemctl restart %s): %s", unit, why))
	}
}

// undoCommands take back what commands have done.
func (p *planner) undoCommands() {
	if p.done.Label != "" {
		p.command("so that SELinux forgets the wrapper", "semanage", "fcontext", "--delete", p.done.Label)
	}
	if p.done.Mount != "" {
		mounts, _ := p.read("/proc/mounts")
		if slices.ContainsFunc(mntent.Mounts(mounts), func(m mntent.Mount) bool { return m.Path == p.done.Mount && m.Type == "cgroup" }) {
			p.command("vhostctl host setup mounted it", "umount", p.done.Mount)
		}
	}
}

// devicesMount is where the guide to DPDK's vhost sample mounts the controller.
const devicesMount = "/dev/cgroup"

// cgroups mounts the devices controller where libvirt can only guard devices by it: with cgroup v1.
func (p *planner) cgroups() error {
	mounts, err := p.read("/proc/mounts")
	if err != nil || len(p.options.Devices) == 0 {
		return nil // not a running system, or nothing to guard
	}
	for _, m := range mntent.Mounts(mounts) {
		if m.Type == "cgroup" && slices.Contains(m.Options, "devices") {
			return nil
		}
		// Beside v1 controllers, v2 is mounted elsewhere (usually unified/), and libvirt does not use it for devices.
		if m.Type == "cgroup2" && m.Path == "/sys/fs/cgroup" {
			p.plan.Notes = append(p.plan.Notes,
				"cgroup v2: no devices controller has to be mounted; libvirt guards devices by eBPF, from the list in qemu.conf")
			return nil
		}
	}
	controllers, _ := p.read("/proc/cgroups")
	if !slices.ContainsFunc(strings.Split(controllers, "\n"), func(line string) bool {
		f := strings.Fields(line) // name, hierarchy, number of groups, enabled
		return len(f) == 4 && f[0] == "devices" && f[3] == "1"
	}) {
		p.plan.Notes = append(p.plan.Notes, "this kernel has no devices controller of cgroup v1: libvirt does not guard devices, none has to be mounted")
		return nil
	}
	const why = "so that libvirt can guard devices by cgroup v1; for every boot, in /etc/fstab: none /dev/cgroup cgroup devices 0 0"
	p.command(why, "mkdir", "-p", devicesMount)
	p.command(why, "mount", "-t", "cgroup", "none", devicesMount, "-o", "devices")
	if p.system.Find("mount") {
		p.done.Mount = devicesMount
	}
	return nil
}
