package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/switchd/control/names"
)

const hostPool = hostPools + "/hugepages-2048kB/"

// seenBy is where a process sees a path.
func seenBy(pid int, path string) string { return fmt.Sprintf("/proc/%d/root%s", pid, path) }

// installWrapper puts qemu-wrap where host setup does.
func installWrapper(r *rig) { r.files.mode("/usr/bin/qemu-wrap", 0o755, 0, 0) }

func useCUSE(r *rig) {
	r.files.put("/etc/vhostkit/switchd.toml", "device = [\"/dev/usvhost\"]  # old guests\n")
	r.files.mode("/dev/cuse", fs.ModeCharDevice|0o600, 0, 0)
	r.files.mode("/dev/usvhost", fs.ModeCharDevice|0o660, 0, kvmGID)
}

func use82599(r *rig, driver string) {
	const at = "/sys/bus/pci/devices/0000:03:00.0/"
	r.files.put(at+"vendor", "0x8086\n")
	r.files.put(at+"device", "0x10fb\n")
	r.files.put(at+"driver", "").link = "../../../bus/pci/drivers/" + driver
	r.files.put(at+"iommu_group", "").link = "../../../kernel/iommu_groups/7"
	r.files.put("/sys/kernel/iommu_groups/7/type", "DMA")
}

func useAppArmor(r *rig) {
	installWrapper(r)
	r.files.put("/sys/module/apparmor/parameters/enabled", "Y\n")
	r.files.put(abstraction, "/usr/bin/qemu-system-x86_64 rmix,\n# /usr/bin/qemu-wrap rmix,\n")
	r.files.put(localAbstraction, "/usr/bin/qemu-wrap rmix,\n/run/vhostkit/** rw,\n")
}

func useSELinux(r *rig) {
	installWrapper(r)
	r.files.put("/sys/fs/selinux/enforce", "1")
	r.files["/usr/bin/qemu-wrap"].attributes = map[string]string{selinuxAttribute: "system_u:object_r:qemu_exec_t:s0"}
	r.files.mode("/run/vhostkit/ports", fs.ModeDir|0o755, 0, 0).attributes = map[string]string{selinuxAttribute: "system_u:object_r:svirt_image_t:s0"}
}

func useCache(r *rig, cached, changed time.Duration) {
	installWrapper(r)
	n := r.files.put(cacheDir+"/abc.xml", fmt.Sprintf("<qemuCaps><emulator>/usr/bin/qemu-wrap</emulator><qemuctime>%d</qemuctime></qemuCaps>", daemonStart.Unix()))
	n.Modified = daemonStart.Add(cached)
	r.files["/usr/bin/qemu-system-x86_64"].Changed = daemonStart.Add(changed)
}

func unreachable(r *rig) {
	r.sw.err = fmt.Errorf("%w on /x: connection refused", control.ErrUnreachable)
}

var hostScenarios = []scenario{
	{"kvm", "open", nil, OK, "open to libvirt-qemu", ""},
	{"kvm", "user unknown", func(r *rig) { r.connect, r.env.Domain = errNoLibvirt, ""; delete(r.files, "/etc/passwd") }, OK, "is there", ""},
	{"kvm", "open to the user's own group", func(r *rig) {
		r.stop()
		r.files.put("/etc/group", "kvm:x:109:\nlibvirt-qemu:x:64055:libvirt-qemu\n")
		r.libvirt.capabilities = strings.Replace(r.libvirt.capabilities, "+109", "+64055", 1)
	}, OK, "open to libvirt-qemu", ""},
	{"kvm", "absent", func(r *rig) { delete(r.files, "/dev/kvm") }, Warn, "emulates", "modprobe"},
	{"kvm", "not virtualised", func(r *rig) { delete(r.files, "/dev/kvm"); r.files.put("/proc/cpuinfo", "flags : fpu\n") }, Warn, "emulates", "firmware"},
	{"kvm", "closed", func(r *rig) { r.files.mode("/dev/kvm", 0o600, 0, 0) }, Warn, "closed to libvirt-qemu", "usermod"},

	{"cuse", "not used", nil, NotApplicable, "", ""},
	{"cuse", "there", useCUSE, OK, "/dev/usvhost", ""},
	{"cuse", "no module", func(r *rig) { useCUSE(r); delete(r.files, "/dev/cuse") }, Fail, "not loaded", "modprobe cuse"},
	{"cuse", "no device", func(r *rig) { useCUSE(r); delete(r.files, "/dev/usvhost") }, Fail, "/dev/usvhost is not there", "restart switchd"},
	{"cuse", "closed device", func(r *rig) { useCUSE(r); r.files.mode("/dev/usvhost", 0o600, 0, 0) }, OK, "passes descriptors", ""},
	{"cuse", "by the backend", func(r *rig) {
		r.files.put("/etc/vhostkit/switchd.toml", "backend = \"both\"\ndev-basename = [\"one\", \"two\"]\n")
		r.files.mode("/dev/cuse", fs.ModeCharDevice|0o600, 0, 0)
		r.files.mode("/dev/one", fs.ModeCharDevice|0o660, 0, kvmGID)
	}, Fail, "/dev/two is not there", "restart switchd"},
	{"cuse", "by the wrapper", func(r *rig) { r.files.put(wrapperConf, "mode = \"cuse\"\n") }, Fail, "not loaded", "modprobe cuse"},
	{"cuse", "by the domain", func(r *rig) { r.edit("<model type='virtio'/>", "<model type='virtio'/><backend vhost='/dev/vhX'/>") }, Fail, "", "modprobe"},

	{"eventfd-link", "gone", nil, OK, "", ""},
	{"eventfd-link", "loaded", func(r *rig) { r.files.put("/sys/module/eventfd_link/refcnt", "0") }, Warn, "every user", "rmmod"},

	{"nic-82599", "none", nil, NotApplicable, "", ""},
	{"nic-82599", "kernel's", func(r *rig) { use82599(r, "ixgbe") }, OK, "bound to ixgbe", ""},
	{"nic-82599", "vfio", func(r *rig) { use82599(r, "vfio-pci") }, OK, "vfio-pci, with an IOMMU", ""},
	{"nic-82599", "uio", func(r *rig) { use82599(r, "uio_pci_generic") }, Warn, "--unprotected-dma 1", "vfio-pci"},
	{"nic-82599", "no iommu", func(r *rig) { use82599(r, "vfio-pci"); delete(r.files, "/sys/kernel/iommu_groups/7/type") }, Fail, "no IOMMU", "intel_iommu=on"},
	{"nic-82599", "no group", func(r *rig) {
		use82599(r, "vfio-pci")
		delete(r.files, "/sys/bus/pci/devices/0000:03:00.0/iommu_group")
	}, Fail,
		"no IOMMU group", "intel_iommu=on"},

	{"hugepages-pool", "free", nil, OK, "512 of 512 × 2 MiB free", ""},
	{"hugepages-pool", "reserved count as taken", func(r *rig) { r.files.put(hostPool+"resv_hugepages", "500") }, OK, "12 of 512", ""},
	{"hugepages-pool", "none", func(r *rig) { r.pool(hostPools, 2048, 0, 0) }, Warn, "no hugepages", "nr_hugepages"},
	{"hugepages-pool", "taken", func(r *rig) { r.pool(hostPools, 2048, 512, 0) }, Warn, "Cannot allocate memory", "nr_hugepages"},
	{"hugepages-pool", "kernel without", noHugetlb, NotApplicable, "", ""},

	{"hugepages-boot", "as asked", nil, OK, "512 × 2 MiB", ""},
	{"hugepages-boot", "fewer", func(r *rig) { r.files.put("/proc/cmdline", "hugepagesz=2M hugepages=1024") }, Warn, "asked for 1024 × 2 MiB, got 512", "lower"},
	{"hugepages-boot", "by node", func(r *rig) { r.files.put("/proc/cmdline", "hugepages=0:256,1:300") }, Warn, "asked for 556", "lower"},
	{"hugepages-boot", "a size that is not there", func(r *rig) { r.files.put("/proc/cmdline", "default_hugepagesz=1G hugepages=4") }, Warn, "4 × 1 GiB, got 0", ""},
	{"hugepages-boot", "not asked", func(r *rig) { r.files.put("/proc/cmdline", "quiet") }, NotApplicable, "", ""},
	{"hugepages-boot", "no sysfs", noHugetlb, Unknown, "", ""},

	{"hugepages-overcommit", "none", nil, OK, "", ""},
	{"hugepages-overcommit", "allowed", func(r *rig) { r.files.put(hostPool+"nr_overcommit_hugepages", "64") }, Warn, "up to 64", "echo 0 >"},
	{"hugepages-overcommit", "surplus", func(r *rig) { r.files.put(hostPool+"surplus_hugepages", "8") }, Warn, "8 of the pages", "echo 512 >"},
	{"hugepages-overcommit", "kernel without", noHugetlb, NotApplicable, "", ""},

	{"hugepages-default-size", "has pages", nil, OK, "2 MiB", ""},
	{"hugepages-default-size", "others have", func(r *rig) { r.pool(hostPools, 2048, 0, 0); r.pool(hostPools, 1048576, 4, 4) }, Warn,
		"default size is 2 MiB, whose pool is empty; there are pages of 1 GiB", "default_hugepagesz"},
	{"hugepages-default-size", "none", func(r *rig) { r.pool(hostPools, 2048, 0, 0) }, NotApplicable, "", ""},

	{"hugepages-mounted", "mounted", nil, OK, "2 MiB at /dev/hugepages", ""},
	{"hugepages-mounted", "not", func(r *rig) { r.files.put("/proc/self/mounts", "") }, Warn, "no hugetlbfs for pages of 2 MiB", "pagesize=2048K hugetlbfs /dev/hugepages "},
	{"hugepages-mounted", "second size", func(r *rig) { r.pool(hostPools, 1048576, 4, 4) }, Warn, "pages of 1 GiB", "/dev/hugepages1G"},
	{"hugepages-mounted", "no pages", func(r *rig) { r.pool(hostPools, 2048, 0, 0) }, NotApplicable, "", ""},
	{"hugepages-mounted", "unreadable", func(r *rig) { delete(r.files, "/proc/self/mounts") }, Unknown, "", ""},

	{"hugepages-mount-order", "before", nil, OK, "known to libvirtd", ""},
	{"hugepages-mount-order", "after", func(r *rig) {
		delete(r.files, "/dev/hugepages/libvirt/qemu")
		r.files.mode("/dev/hugepages", fs.ModeDir|0o755, 0, 0)
	},
		Warn, "mounted after libvirtd", "systemctl restart libvirtd"},
	{"hugepages-mount-order", "modular daemon", func(r *rig) {
		r.process(700, "virtqemud", "/usr/sbin/virtqemud", 0, 0, "virtqemud")
		delete(r.files, "/dev/hugepages/libvirt/qemu")
	}, Warn, "mounted after virtqemud", "systemctl restart virtqemud"},
	{"hugepages-mount-order", "not for libvirt", func(r *rig) {
		delete(r.files, "/dev/hugepages/libvirt/qemu")
		r.files.put(qemuConf, "hugetlbfs_mount = [\n  \"/mnt/huge\", # ours\n]\n")
	}, OK, "not for libvirt", ""},
	{"hugepages-mount-order", "no daemon", func(r *rig) { delete(r.files, "/proc/700/stat") }, NotApplicable, "does not run", ""},
	{"hugepages-mount-order", "a user's session", func(r *rig) {
		r.process(700, "libvirtd", "/usr/sbin/libvirtd", 1000, 1000, "libvirtd")
		delete(r.files, "/dev/hugepages/libvirt/qemu")
	}, NotApplicable, "does not run", ""},
	{"hugepages-mount-order", "no mount", func(r *rig) { r.files.put("/proc/self/mounts", "") }, NotApplicable, "", ""},
	{"hugepages-mount-order", "session", func(r *rig) { r.env.URI = "qemu:///session" }, NotApplicable, "", ""},
	{"hugepages-mount-order", "unreadable", func(r *rig) { delete(r.files, "/proc/self/mounts") }, Unknown, "", ""},

	{"libvirt", "answers", nil, OK, "libvirt 9.0.0", ""},
	{"libvirt", "down", func(r *rig) { r.connect = errors.New("connection refused") }, Fail, "refused", "systemctl start libvirtd"},
	{"libvirt", "not allowed", func(r *rig) { r.connect = fs.ErrPermission }, Unknown, "sudo", ""},
	{"libvirt", "hangs up", func(r *rig) { r.libvirt.err = errors.New("end of file while reading data") }, Fail, "end of file", "systemctl"},
	{"libvirt", "not installed", func(r *rig) { r.env.Domain = ""; r.connect = errNoLibvirt; delete(r.files, "/usr/sbin/libvirtd") }, NotApplicable, "", ""},

	{"libvirt-private-memory", "shared", nil, OK, "1 of 1 domains have vhost-user interfaces; libvirt 9.0.0 starts one silently", ""},
	{"libvirt-private-memory", "new libvirt", func(r *rig) { r.libvirt.version = 11_002_000 }, OK, "1 of 1 domains have vhost-user interfaces", ""},
	{"libvirt-private-memory", "private", func(r *rig) { r.edit("<access mode='shared'/>", "") }, Fail, "vm1: <memoryBacking> has no", "vhostctl attach vm1"},
	{"libvirt-private-memory", "not XML", func(r *rig) { r.libvirt.domains["bad"] = DomainXML{Name: "bad", Config: "<x"} }, Unknown, "bad", ""},
	{"libvirt-private-memory", "no answer", func(r *rig) { r.libvirt.err = errors.New("gone") }, Unknown, "gone", ""},
	{"libvirt-private-memory", "no libvirt", func(r *rig) { r.connect = errNoLibvirt }, NotApplicable, "", ""},

	{"qemu-version", "recent", nil, OK, "QEMU 10.1.0", ""},
	{"qemu-version", "no vhost-user", func(r *rig) { r.qemu = "QEMU emulator version 2.1.2, Copyright" }, Fail, "no vhost-user", "upgrade"},
	{"qemu-version", "no reconnect", func(r *rig) { r.qemu = "QEMU emulator version 2.5.0" }, Warn, "for good", "upgrade"},
	{"qemu-version", "no memfd", func(r *rig) { r.qemu = "QEMU emulator version 2.11.1(Debian)" }, Warn, "memfd", "upgrade"},
	{"qemu-version", "does not start", func(r *rig) { r.qemu = "" }, Unknown, "not started", ""},
	{"qemu-version", "says nothing", func(r *rig) { r.qemu = "hello" }, Unknown, "hello", ""},
	{"qemu-version", "absent", func(r *rig) { delete(r.files, "/usr/bin/qemu-system-x86_64") }, Fail, "no QEMU", "install"},

	{"capability-cache", "none", nil, NotApplicable, "", ""},
	{"capability-cache", "no wrapper in it", func(r *rig) { r.files.put(cacheDir+"/a.xml", "<qemuCaps><emulator>/usr/bin/kvm</emulator></qemuCaps>") }, NotApplicable, "wrapper", ""},
	{"capability-cache", "fresh", func(r *rig) { useCache(r, time.Hour, time.Minute) }, OK, "qemu-wrap", ""},
	{"capability-cache", "stale", func(r *rig) { useCache(r, time.Minute, time.Hour) }, Warn, "is newer than", "touch /usr/bin/qemu-wrap"},
	{"capability-cache", "wrapper touched", func(r *rig) {
		useCache(r, time.Minute, time.Hour)
		r.files["/usr/bin/qemu-wrap"].Changed = daemonStart.Add(2 * time.Hour)
	}, OK, "asks again", ""},
	{"capability-cache", "QEMU gone", func(r *rig) { useCache(r, time.Minute, time.Hour); delete(r.files, "/usr/bin/qemu-system-x86_64") }, Unknown, "behind", ""},
	{"capability-cache", "closed", func(r *rig) { r.files.put(cacheDir, "").err = fs.ErrPermission }, Unknown, "permission", ""},
	{"capability-cache", "session", func(r *rig) { r.env.URI = "qemu+unix:///session" }, NotApplicable, "", ""},

	{"wrapper", "not installed", nil, NotApplicable, "", ""},
	{"wrapper", "as QEMU", installWrapper, OK, "/usr/bin/qemu-wrap", ""},
	{"wrapper", "not executable", func(r *rig) { r.files.mode("/usr/bin/qemu-wrap", 0o644, 0, 0) }, Fail, "may not be executed", "chmod 0755"},
	{"wrapper", "writable by all", func(r *rig) { r.files.mode("/usr/bin/qemu-wrap", 0o777, 0, 0) }, Fail, "others than its owner", "chmod go-w"},
	{"wrapper", "other owner", func(r *rig) { r.files.mode("/usr/bin/qemu-wrap", 0o755, 1000, 1000) }, Warn, "owner 1000:1000", "chown --reference"},
	{"wrapper", "no QEMU to compare with", func(r *rig) { installWrapper(r); delete(r.files, "/usr/bin/qemu-system-x86_64") }, OK, "", ""},
	{"wrapper", "the domain's is missing", func(r *rig) { r.edit("/usr/bin/qemu-system-x86_64", "/opt/qemu-wrap") }, Fail, "/opt/qemu-wrap is not there", "host setup"},
	{"wrapper", "closed", func(r *rig) { installWrapper(r); r.files["/usr/bin/qemu-wrap"].err = fs.ErrPermission }, NotApplicable, "", ""},

	{"wrapper-emulator", "not installed", nil, NotApplicable, "", ""},
	{"wrapper-emulator", "found", installWrapper, OK, "/usr/bin/qemu-system-x86_64", ""},
	{"wrapper-emulator", "named", func(r *rig) {
		installWrapper(r)
		r.files.put(wrapperConf, "emul_path = '/usr/bin/qemu-system-x86_64'\n")
	}, OK, "/usr/bin/qemu", ""},
	{"wrapper-emulator", "none found", func(r *rig) { installWrapper(r); delete(r.files, "/usr/bin/qemu-system-x86_64") }, Fail, "no QEMU", "set emul_path"},
	{"wrapper-emulator", "missing", func(r *rig) { installWrapper(r); r.files.put(wrapperConf, `emul_path = "/opt/qemu"`) }, Fail, "/opt/qemu", "set emul_path"},
	{"wrapper-emulator", "itself", func(r *rig) { installWrapper(r); r.files.put(wrapperConf, `emul_path = "/usr/bin/qemu-wrap"`) }, Fail, "itself", "set emul_path"},
	{"wrapper-emulator", "no program", func(r *rig) { installWrapper(r); r.files.put(wrapperConf, `emul_path = "/etc/passwd"`) }, Fail, "may not be executed", ""},

	{"selinux", "none", nil, NotApplicable, "", ""},
	{"selinux", "permissive", func(r *rig) { r.files.put("/sys/fs/selinux/enforce", "0\n") }, OK, "permissive", ""},
	{"selinux", "labelled", useSELinux, OK, "qemu_exec_t", ""},
	{"selinux", "wrapper's label", func(r *rig) {
		useSELinux(r)
		r.files["/usr/bin/qemu-wrap"].attributes[selinuxAttribute] = "system_u:object_r:bin_t:s0"
	}, Warn, "bin_t", "semanage fcontext -a -t qemu_exec_t '/usr/bin/qemu-wrap' && restorecon -Rv /usr/bin/qemu-wrap"},
	{"selinux", "sockets' label", func(r *rig) {
		useSELinux(r)
		r.files["/run/vhostkit/ports"].attributes[selinuxAttribute] = "system_u:object_r:var_run_t:s0"
	}, Warn, "var_run_t", "semanage fcontext -a -t svirt_image_t '/run/vhostkit/ports(/.*)?'"},
	{"selinux", "nothing to label", func(r *rig) { r.files.put("/sys/fs/selinux/enforce", "1"); r.env.SocketDir = "/nowhere" }, OK, "enforcing", ""},
	{"selinux", "no label", func(r *rig) { useSELinux(r); r.files["/usr/bin/qemu-wrap"].attributes = nil }, Unknown, "label", ""},

	{"apparmor", "none", nil, NotApplicable, "", ""},
	{"apparmor", "no wrapper", func(r *rig) { r.files.put("/sys/module/apparmor/parameters/enabled", "Y") }, OK, "nothing to allow", ""},
	{"apparmor", "rules", useAppArmor, OK, "are there", ""},
	{"apparmor", "comments only", func(r *rig) { useAppArmor(r); r.files.put(localAbstraction, "#/run/vhostkit/** rw,") }, Fail,
		"no rule for /usr/bin/qemu-wrap", "rmix"},
	{"apparmor", "elsewhere", func(r *rig) {
		useAppArmor(r)
		r.files.mode("/usr/local/bin/qemu-wrap", 0o755, 0, 0)
		delete(r.files, "/usr/bin/qemu-wrap")
	}, Fail, "libvirtd may not start programs from /usr/local/bin", localDaemon},
	{"apparmor", "no profile", func(r *rig) { useAppArmor(r); delete(r.files, abstraction) }, NotApplicable, "", ""},
	{"apparmor", "off in libvirt", func(r *rig) { useAppArmor(r); r.files.put(qemuConf, "security_driver = \"none\"") }, NotApplicable, "", ""},

	{"device-acl", "not used", nil, NotApplicable, "", ""},
	{"device-acl", "listed", func(r *rig) {
		useCUSE(r)
		r.files.put(qemuConf, "cgroup_device_acl = [\n  \"/dev/null\", \"/dev/full\",\n  '/dev/usvhost'\n]\nuser = \"x\"\n")
	}, OK, "is in cgroup_device_acl (cgroup v1)", ""},
	{"device-acl", "by switchd", func(r *rig) {
		useCUSE(r)
		r.files.mode("/run/vhostkit/qemu.sock", fs.ModeSocket|0o660, 0, kvmGID)
		r.files.put("/sys/fs/cgroup/cgroup.controllers", "cpu")
	}, OK, "comes from switchd over /run/vhostkit/qemu.sock (cgroup v2)", ""},
	{"device-acl", "commented out", func(r *rig) { useCUSE(r); r.files.put(qemuConf, "#cgroup_device_acl = [ \"/dev/usvhost\" ]") }, Fail,
		"may not open /dev/usvhost", "host setup --device /dev/usvhost"},

	{"qemu-namespaces", "default", nil, OK, "", ""},
	{"qemu-namespaces", "off", func(r *rig) { r.files.put(qemuConf, "namespaces = [ ]\n") }, Warn, "whole /dev", "remove namespaces"},
	{"qemu-namespaces", "root", func(r *rig) { r.files.put(qemuConf, "user = \"root\"\n") }, Warn, "as root", "remove user"},
	{"qemu-namespaces", "no libvirt", func(r *rig) { delete(r.files, "/usr/sbin/libvirtd") }, NotApplicable, "", ""},

	{"same-world", "same", nil, OK, "", ""},
	{"same-world", "users", func(r *rig) { r.files["/proc/700/ns/user"].link = "user:[2]" }, Warn, "user namespaces", "one container"},
	{"same-world", "files", func(r *rig) { r.files[seenBy(700, "/run/vhostkit/ports")].Inode = 9 }, Fail, "does not see", "bind-mount"},
	{"same-world", "hidden", func(r *rig) { delete(r.files, "/proc/800/ns/user") }, Unknown, "root only", ""},
	{"same-world", "no switchd", unreachable, NotApplicable, "", ""},

	{"switchd", "runs", nil, OK, "pid 800", ""},
	{"switchd", "down", unreachable, Fail, "refused", "systemctl start switchd"},
	{"switchd", "closed", func(r *rig) { r.sw.err = fmt.Errorf("%w: %w", control.ErrUnreachable, fs.ErrPermission) }, Unknown, "permission", ""},
	{"switchd", "broken", func(r *rig) { r.sw.err = errors.New("bad answer") }, Fail, "bad answer", "journalctl"},
	{"switchd", "no socket", func(r *rig) { r.env.Switch = nil }, Unknown, "", ""},

	{"switchd-version", "one", nil, OK, "v1", ""},
	{"switchd-version", "two", func(r *rig) { r.env.Version = "v2" }, Warn, "switchd is v1, vhostctl is v2", "restart switchd"},
	{"switchd-version", "down", unreachable, NotApplicable, "", ""},

	{"uplink", "up", nil, OK, "vhk0 (tap), MTU 1500", ""},
	{"uplink", "none", func(r *rig) { r.sw.after.Uplink = control.UplinkStats{Driver: names.UplinkNone} }, NotApplicable, "none", ""},
	{"uplink", "down", func(r *rig) { r.sw.after.Uplink.Up = false }, Fail, "is down", "ip link set vhk0 up"},
	{"uplink", "no carrier", func(r *rig) { r.sw.after.Uplink.Carrier = false }, Warn, "no carrier", "cable"},
	{"uplink", "losing", func(r *rig) { r.sw.before.Uplink.Full, r.sw.after.Uplink.Full = 5, 9 }, Warn, "9 had no room", "ip -s link"},
	{"uplink", "lost once", func(r *rig) { r.sw.before.Uplink.Full, r.sw.after.Uplink.Full = 5, 5 }, OK, "", ""},
	{"uplink", "cut", func(r *rig) { r.sw.after.Uplink.Truncated = 2 }, Warn, "2 too long", "mtu 1500"},

	{"ports-failed", "none", nil, OK, "1 ports", ""},
	{"ports-failed", "one", func(r *rig) { r.port().State, r.port().Error = control.StateFailed, "bad ring" }, Fail, "port vm1-net0: bad ring", "restart the guest"},
	{"ports-failed", "down", unreachable, NotApplicable, "", ""},

	{"ports-mtu", "one", nil, OK, "1500", ""},
	{"ports-mtu", "uplink's", func(r *rig) { r.sw.after.Uplink.MTU = 9000 }, Warn, "1500: vm1-net0; 9000: uplink vhk0", "<mtu"},
	{"ports-mtu", "two ports", func(r *rig) {
		p := *r.port()
		p.ID, p.Name, p.MTU = 1, "", 9000
		r.sw.after.Ports = append(r.sw.after.Ports, p)
	}, Warn, "1500: vm1-net0 uplink vhk0; 9000: 1", "mtu 1500"},
	{"ports-mtu", "nobody", func(r *rig) { r.sw.after.Ports = nil }, NotApplicable, "", ""},

	{"budgets", "an older switchd", nil, NotApplicable, "", ""},
	{"budgets", "room", func(r *rig) {
		r.sw.after.Budgets = []control.Budget{{Resource: "ports", Used: 5, Limit: 100, LimitPerUser: 75, BusiestUser: 107, BusiestUsed: 5}}
	}, OK, "1 resources", ""},
	{"budgets", "used up", func(r *rig) {
		r.sw.after.Budgets = []control.Budget{{Resource: "ports", Used: 80, Limit: 100, LimitPerUser: 75, BusiestUser: 107, BusiestUsed: 75}}
	}, Fail, "user 107 has 75 of the 75", "--max-ports"},
	{"drops", "none", nil, OK, "no drop counter rises", ""},
	{"drops", "rising", func(r *rig) { r.port().Queues[0].RX.Drops = map[string]uint64{"ring_full": 7} }, Warn, "vm1-net0: rx ring_full +7", "rx_queue_size"},
	{"drops", "not any more", func(r *rig) {
		r.sw.before.Ports[0].Queues[0].RX.Drops = map[string]uint64{"ring_full": 7}
		r.port().Queues[0].RX.Drops = map[string]uint64{"ring_full": 7}
	}, OK, "", ""},
	{"drops", "another device since", func(r *rig) {
		later := daemonStart.Add(time.Second)
		r.sw.before.Ports[0].Queues[0].RX.Drops = map[string]uint64{"ring_full": 7}
		r.port().Connected = &later
		r.port().Queues[0].RX.Drops = map[string]uint64{"ring_full": 3}
	}, Warn, "+3", ""},
	{"drops", "new reason", func(r *rig) { r.port().Queues[0].TX.Drops = map[string]uint64{"no_uplink": 1} }, Warn, "tx no_uplink +1", "--uplink"},
	{"drops", "nobody", func(r *rig) { r.sw.after.Ports = nil }, NotApplicable, "", ""},
	{"drops", "down", unreachable, NotApplicable, "", ""},
}

func noHugetlb(r *rig) {
	for name := range r.files {
		if strings.HasPrefix(name, hostPools) {
			delete(r.files, name)
		}
	}
}
