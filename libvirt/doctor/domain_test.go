package doctor

import (
	"errors"
	"io/fs"
	"strings"

	"vhostkit/switchd/control"
	"vhostkit/switchd/control/names"
)

// backing is what prepares the memory of the domain.
const backing = "<memoryBacking><hugepages/><source type='memfd'/><access mode='shared'/></memoryBacking>"

// wrap has the domain started by qemu-wrap, on ordinary interfaces.
func wrap(r *rig) {
	r.edit("/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-wrap")
	r.edit(backing, "")
	r.edit("<interface type='vhostuser'>", "<interface type='ethernet'>")
	r.edit("<source type='unix' path='/run/vhostkit/ports/vm1-net0.sock' mode='client'><reconnect enabled='yes' timeout='1'/></source>", "")
}

// viaCUSE gives the interface its device.
func viaCUSE(r *rig) {
	wrap(r)
	r.edit("/usr/bin/qemu-wrap", "/usr/bin/qemu-system-x86_64")
	r.edit("<alias name='net0'/>", "<alias name='net0'/><backend vhost='/dev/usvhost'/>")
}

// cells gives the domain two NUMA cells of 256 MiB.
func cells(r *rig, first, second string) {
	r.edit("<devices>", "<cpu><numa><cell id='0' cpus='0' memory='262144' unit='KiB'"+first+"/><cell id='1' cpus='1' memory='256' unit='MiB'"+second+
		"/></numa></cpu><devices>")
}

func changeConfig(r *rig, old, replacement string) {
	x := r.libvirt.domains["vm1"]
	x.Config = strings.Replace(x.Config, old, replacement, 1)
	r.libvirt.domains["vm1"] = x
}

func inactive(f func(*rig)) func(*rig) {
	return func(r *rig) {
		r.stop()
		f(r)
	}
}

var domainScenarios = []scenario{
	{"domain", "running", nil, OK, "vm1: running, 1 interfaces", ""},
	{"domain", "shut off", func(r *rig) { r.stop() }, OK, "shut off", ""},
	{"domain", "wrapped", wrap, OK, "qemu-wrap", ""},
	{"domain", "missing", func(r *rig) { r.env.Domain = "vm9" }, Fail, "not found", "virsh list"},
	{"domain", "not attached", func(r *rig) { r.edit("<interface type='vhostuser'>", "<interface type='network'>") }, Fail, "no interface on the switch", "vhostctl attach vm1"},
	{"domain", "a name that means something to the shell", func(r *rig) {
		r.libvirt.domains["x; y's"] = DomainXML{Name: "x; y's", Config: strings.Replace(healthyXML, "vhostuser", "user", 1)}
		r.env.Domain = "x; y's"
	}, Fail, "no interface on the switch", `vhostctl attach 'x; y'\''s'`},
	{"domain", "no libvirt", func(r *rig) { r.connect = errNoLibvirt }, Unknown, "libvirt", ""},

	{"domain-restart", "same", nil, OK, "", ""},
	{"domain-restart", "interfaces", func(r *rig) { changeConfig(r, "vm1-net0.sock", "other.sock") }, Warn, "interfaces were changed", "not enough"},
	{"domain-restart", "memory", func(r *rig) { changeConfig(r, "<access mode='shared'/>", "") }, Warn, "memory was changed", "virsh start vm1"},
	{"domain-restart", "emulator", func(r *rig) { changeConfig(r, "/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-wrap") }, Warn, "the next start uses /usr/bin/qemu-wrap", ""},
	{"domain-restart", "shut off", func(r *rig) { r.stop() }, NotApplicable, "", ""},

	{"domain-kvm", "kvm", nil, OK, "", ""},
	{"domain-kvm", "emulated", func(r *rig) { r.edit("<domain type='kvm'>", "<domain type='qemu'>") }, Warn, "emulated", "type='kvm'"},
	{"domain-kvm", "no kvm", func(r *rig) { r.edit("<domain type='kvm'>", "<domain type='qemu'>"); delete(r.files, "/dev/kvm") }, OK, "no KVM", ""},

	{"domain-qemu", "recent", nil, OK, "10.1.0", ""},
	{"domain-qemu", "missing", func(r *rig) { delete(r.files, "/usr/bin/qemu-system-x86_64") }, Fail, "emulator", "<emulator>"},
	{"domain-qemu", "memfd", func(r *rig) { r.qemu = "QEMU emulator version 2.11.0" }, Fail, "<source type='memfd'/> needs 2.12.0", "upgrade"},
	{"domain-qemu", "packed", func(r *rig) { r.qemu = "QEMU emulator version 4.1.0"; r.edit("queues='1'", "packed='on'") }, Fail, "packed='on' needs 4.2.0", "upgrade"},
	{"domain-qemu", "queues", func(r *rig) { r.qemu = "QEMU emulator version 2.4.0"; r.edit("queues='1'", "queues='4'") }, Fail, "several queues", "upgrade"},
	{"domain-qemu", "msi-x without kvm", func(r *rig) { r.qemu = "QEMU emulator version 7.2.22"; r.edit("type='kvm'", "type='qemu'") }, Warn, "MSI-X", "vectors=0"},
	{"domain-qemu", "pin interrupts without kvm", func(r *rig) {
		r.qemu = "QEMU emulator version 7.2.22"
		r.edit("type='kvm'", "type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'")
		r.edit("</domain>", "<qemu:commandline><qemu:arg value='-global'/><qemu:arg value='virtio-net-pci.vectors=0'/></qemu:commandline></domain>")
	}, OK, "7.2.22", ""},
	{"domain-qemu", "silent", func(r *rig) { r.qemu = "" }, Unknown, "", ""},

	{"boot-c", "debian", nil, NotApplicable, "", ""},
	{"boot-c", "ubuntu", func(r *rig) { r.files.put("/etc/os-release", "ID=ubuntu\n") }, OK, "", ""},
	{"boot-c", "none", func(r *rig) { r.files.put("/etc/os-release", "ID=ubuntu\n"); r.edit("<boot dev='hd'/>", "") }, Warn, "no boot device", "-boot c"},
	{"boot-c", "by device", func(r *rig) {
		r.files.put("/etc/os-release", "ID=ubuntu\n")
		r.edit("<boot dev='hd'/>", "")
		r.edit("</devices>", "<disk type='file'><boot order='1'/></disk></devices>")
	}, OK, "", ""},
	{"boot-c", "no hugepages", func(r *rig) { r.files.put("/etc/os-release", "ID=ubuntu\n"); r.edit("<hugepages/>", "") }, NotApplicable, "", ""},

	{"hotplug-port", "spare", nil, OK, "1 of 2", ""},
	{"hotplug-port", "none", func(r *rig) { r.edit("<controller type='pci' index='2' model='pcie-root-port'/>", "") }, Warn, "all 1 root ports", "pcie-root-port"},
	{"hotplug-port", "pc", func(r *rig) { r.edit("pc-q35-7.2", "pc-i440fx-7.2") }, NotApplicable, "", ""},

	{"memory-shared", "shared", nil, OK, "", ""},
	{"memory-shared", "private", func(r *rig) { r.edit("<access mode='shared'/>", "") }, Fail, "no packet flows", "mode='shared'"},
	{"memory-shared", "from the next start", func(r *rig) { changeConfig(r, "<access mode='shared'/>", "") }, Fail, "next start", ""},
	{"memory-shared", "cells inherit", func(r *rig) { cells(r, "", "") }, OK, "", ""},
	{"memory-shared", "cell overrides", func(r *rig) { cells(r, "", " memAccess='private'") }, Fail, "NUMA cell 1 overrides", "memAccess"},
	{"memory-shared", "cells shared alone", func(r *rig) {
		r.edit(backing, "")
		cells(r, " memAccess='shared'", " memAccess='shared'")
	}, OK, "", ""},
	{"memory-shared", "one cell", func(r *rig) { r.edit(backing, ""); cells(r, " memAccess='shared'", "") }, Fail, "NUMA cell 1 is not shared", ""},
	{"memory-shared", "wrapped", wrap, OK, "qemu-wrap", ""},

	{"memory-source", "both", nil, OK, "memfd on hugepages", ""},
	{"memory-source", "hugetlbfs", func(r *rig) { r.edit("<source type='memfd'/>", "") }, OK, "hugepages", ""},
	{"memory-source", "memfd", func(r *rig) { r.edit("<hugepages/>", "") }, OK, "without hugepages", ""},
	{"memory-source", "file", func(r *rig) { r.edit("<hugepages/><source type='memfd'/>", "") }, Warn, "memory_backing_dir", "memfd"},
	{"memory-source", "private", func(r *rig) { r.edit(backing, "") }, NotApplicable, "", ""},

	{"memory-prealloc", "running", nil, OK, "allocated", ""},
	{"memory-prealloc", "not", func(r *rig) {
		r.process(guestPID, "qemu", "/usr/bin/qemu-system-x86_64", 1, 1, "qemu", "-name", "vm1", "-mem-path", "/dev/hugepages")
	}, Warn, "SIGBUS", "-mem-prealloc"},
	{"memory-prealloc", "old option", func(r *rig) {
		r.process(guestPID, "qemu", "/usr/bin/qemu-system-x86_64", 1, 1, "qemu", "-name", "vm1", "-mem-path", "/dev/hugepages", "-mem-prealloc")
	}, OK, "allocated", ""},
	{"memory-prealloc", "shut off", func(r *rig) { r.stop() }, OK, "always", ""},
	{"memory-prealloc", "memfd", inactive(func(r *rig) { r.edit("<hugepages/>", "") }), OK, "touched", ""},
	{"memory-prealloc", "immediate", inactive(func(r *rig) { r.edit("<hugepages/>", "<allocation mode='immediate'/>") }), OK, "immediate", ""},

	{"memory-hugepages", "running", nil, OK, "has its pages", ""},
	{"memory-hugepages", "enough", func(r *rig) { r.stop() }, OK, "256 of 512 free × 2 MiB", ""},
	{"memory-hugepages", "too few", inactive(func(r *rig) { r.pool(hostPools, 2048, 512, 100) }), Fail, "needs 256 × 2 MiB, 100 are free", "+ 156 ))"},
	{"memory-hugepages", "reserved by others", inactive(func(r *rig) { r.files.put(hostPool+"resv_hugepages", "400") }), Fail, "112 are free", ""},
	{"memory-hugepages", "other node", inactive(func(r *rig) {
		r.edit("<devices>", "<numatune><memory mode='strict' nodeset='1'/></numatune><devices>")
		r.pool("/sys/devices/system/node/node1/hugepages", 2048, 20, 20)
	}), Fail, "on node 1, 20 are free", "node1/hugepages"},
	{"memory-hugepages", "preferred node", inactive(func(r *rig) {
		r.edit("<devices>", "<numatune><memory mode='preferred' nodeset='1'/></numatune><devices>")
	}), OK, "256 of 512", ""},
	{"memory-hugepages", "cells share the pool", inactive(func(r *rig) { cells(r, "", ""); r.pool(hostPools, 2048, 512, 200) }), Fail, "needs 128 × 2 MiB, 72 are free", ""},
	{"memory-hugepages", "cell on its node", inactive(func(r *rig) {
		cells(r, "", "")
		r.edit("<devices>", "<numatune><memnode cellid='1' mode='strict' nodeset='3'/></numatune><devices>")
	}), Fail, "on node 3, 0 are free", ""},
	{"memory-hugepages", "gigabyte pages", inactive(func(r *rig) {
		r.edit("<hugepages/>", "<hugepages><page size='1' unit='G'/></hugepages>")
		r.pool(hostPools, 1048576, 4, 4)
	}), Fail, "not a multiple of the 1 GiB page", "<memory>"},
	{"memory-hugepages", "size that is not there", inactive(func(r *rig) { r.edit("<hugepages/>", "<hugepages><page size='1' unit='G'/></hugepages>") }),
		Fail, "no pages of 1 GiB", "<page"},
	{"memory-hugepages", "kernel without", inactive(noHugetlb), Fail, "", "hugetlbfs"},
	{"memory-hugepages", "none", func(r *rig) { r.edit("<hugepages/>", "") }, NotApplicable, "", ""},

	{"memory-locked", "not", nil, NotApplicable, "", ""},
	{"memory-locked", "no limit", func(r *rig) { r.edit("<hugepages/>", "<locked/>") }, Warn, "all memory", "hard_limit"},
	{"memory-locked", "too low", func(r *rig) {
		r.edit("<hugepages/>", "<locked/>")
		r.edit("<devices>", "<memtune><hard_limit unit='MiB'>512</hard_limit></memtune><devices>")
	}, Fail, "not above", "raise"},
	{"memory-locked", "fits", func(r *rig) {
		r.edit("<hugepages/>", "<locked/>")
		r.edit("<devices>", "<memtune><hard_limit unit='GiB'>2</hard_limit></memtune><devices>")
	}, OK, "2048 MiB", ""},

	{"interface-model", "virtio", nil, OK, "net0: virtio", ""},
	{"interface-model", "other", func(r *rig) { r.edit("<model type='virtio'/>", "<model type='e1000e'/>") }, Fail, "net0: model \"e1000e\"", "virtio"},
	{"interface-model", "none", func(r *rig) { r.edit("<interface type='vhostuser'>", "<interface type='network'>") }, NotApplicable, "", ""},

	{"interface-reconnect", "yes", nil, OK, "", ""},
	{"interface-reconnect", "no", func(r *rig) { r.edit("<reconnect enabled='yes' timeout='1'/>", "") }, Warn, "dead", "<reconnect enabled='yes'"},
	{"interface-reconnect", "server", func(r *rig) { r.edit("mode='client'", "mode='server'") }, NotApplicable, "", ""},

	{"interface-mode", "client", nil, OK, "", ""},
	{"interface-mode", "server", func(r *rig) { r.edit("mode='client'", "mode='server'") }, Warn, "hang", "--client"},
	{"interface-mode", "cuse", viaCUSE, NotApplicable, "", ""},

	{"interface-offloads", "off", nil, OK, "off", ""},
	{"interface-offloads", "harmless", func(r *rig) { r.edit("<host csum='off' gso='off' tso4='off'/>", "") }, OK, "harmless", ""},
	{"interface-offloads", "cuse", viaCUSE, OK, "off", ""},
	{"interface-offloads", "cuse, on", func(r *rig) { viaCUSE(r); r.edit("tso6='off'", "") }, Warn, "without checksums", "tso6='off'"},

	{"socket-path", "fits", nil, OK, socketFile, ""},
	{"socket-path", "long", func(r *rig) { r.edit("vm1-net0.sock", strings.Repeat("x", 100)) }, Fail, "120 bytes", "shorter"},
	{"socket-path", "none", func(r *rig) { r.edit(socketFile, "") }, Fail, "no socket", "attach"},
	{"socket-path", "cuse", viaCUSE, NotApplicable, "", ""},

	{"socket-access", "open", nil, OK, "open to libvirt-qemu", ""},
	{"socket-access", "socket closed", func(r *rig) { r.files.mode(socketFile, fs.ModeSocket|0o755, 0, 0) }, Fail, "(mode 0755, owner 0:0) is closed to libvirt-qemu",
		"chgrp 109"},
	{"socket-access", "directory closed", func(r *rig) { r.files.mode("/run/vhostkit", fs.ModeDir|0o700, 0, 0) }, Fail,
		"/run/vhostkit (mode 0700, owner 0:0) does not let libvirt-qemu through", "setfacl -m u:64055:x /run/vhostkit"},
	{"socket-access", "acl", func(r *rig) {
		r.files.mode("/run/vhostkit", fs.ModeDir|0o700, 0, 0).attributes = map[string]string{aclAttribute: "x"}
	}, OK, "", ""},
	{"socket-access", "group of a shut off guest", inactive(func(r *rig) { r.files.mode(socketFile, fs.ModeSocket|0o660, 0, 777) }), OK, "", ""},
	{"socket-access", "owner has less than the group", func(r *rig) { r.files.mode(socketFile, fs.ModeSocket|0o060, qemuUID, kvmGID) }, Fail, "closed", ""},
	{"socket-access", "user of qemu.conf", inactive(func(r *rig) {
		r.libvirt.capabilities = ""
		r.files.put(qemuConf, "user = \"nemo\"\ngroup = \"+777\"\n")
		r.files.put("/etc/passwd", "nemo:x:500:500::/:/bin/sh\n")
		r.files.mode(socketFile, fs.ModeSocket|0o660, 0, 777)
	}), OK, "open to nemo", ""},
	{"socket-access", "a process that only claims to be the guest", func(r *rig) {
		r.process(666, "qemu", "/usr/bin/qemu-system-x86_64", 1000, 1000, "qemu", "-name", "guest=vm1")
		r.files.mode(socketFile, fs.ModeSocket|0o600, 0, 0)
	}, Fail, "closed to libvirt-qemu", "chgrp 109"},
	{"socket-access", "a path that means something to the shell", func(r *rig) {
		r.edit(socketFile, "/run/$(id) x")
		r.files.mode("/run/$(id) x", fs.ModeSocket|0o600, 0, 0)
	}, Fail, "closed", "chgrp 109 '/run/$(id) x' &&"},
	{"socket-access", "user unknown", inactive(func(r *rig) { r.libvirt.capabilities = ""; delete(r.files, "/etc/passwd") }), Unknown, "user", ""},
	{"socket-access", "absent", func(r *rig) { delete(r.files, socketFile) }, Fail, "not there", "start switchd"},
	{"socket-access", "no socket", func(r *rig) { r.files.put(socketFile, "") }, Fail, "no socket", "remove"},
	{"socket-access", "hidden", func(r *rig) { r.files[socketFile].err = fs.ErrPermission }, Unknown, "permission", ""},

	{"port-state", "ready", nil, OK, "net0: port vm1-net0, " + guestMAC + ", VLAN 1000", ""},
	{"port-state", "learning", func(r *rig) { r.port().State, r.port().MACs = control.StateLearning, nil }, Warn, "MAC not yet learned", "tx_first"},
	{"port-state", "no driver", func(r *rig) { r.port().State, r.port().MACs = control.StateConnected, nil }, Warn, "driver", "virtio_net"},
	{"port-state", "failed", func(r *rig) { r.port().State, r.port().Error = control.StateFailed, "bad ring" }, Fail, "bad ring", "restart"},
	{"port-state", "disconnected", func(r *rig) {
		*r.port() = control.Port{ID: -1, Name: "vm1-net0", Socket: socketFile, State: control.StateDisconnected}
	}, Fail, "not connected", "info network"},
	{"port-state", "another's socket and address", func(r *rig) { r.port().Peer.PID = 1234 }, Fail, "no port of the switch", "vhostctl ports"},
	{"port-state", "wrapped", func(r *rig) { wrap(r); r.port().State, r.port().MACs = control.StateLearning, nil }, Warn, "not yet learned", ""},
	{"port-state", "shut off", func(r *rig) { r.stop() }, NotApplicable, "", ""},
	{"port-state", "no switchd", unreachable, NotApplicable, "", ""},

	{"port-memory", "the driver has gone", func(r *rig) { // unbound, suspended, or the guest is in its firmware: frames were counted
		r.port().State, r.port().Reason, r.port().Memory = control.StateConnected, "driver not started (no ring runs)", nil
		r.port().Queues[0].RXRunning, r.port().Queues[0].TXRunning = false, false
	}, NotApplicable, "driver has not started", ""},
	{"port-state", "the driver has gone", func(r *rig) {
		r.port().State, r.port().Reason = control.StateConnected, "driver not started (no ring runs)"
	}, Warn, "no ring runs", "virtio_net"},
	{"port-memory", "a ring lies elsewhere", func(r *rig) {
		r.port().State, r.port().Reason, r.port().Memory = control.StateConnected, names.WaitingNotShared+": vring 0", nil
		r.port().Queues[0].RXRunning, r.port().Queues[0].TXRunning = false, false
	}, Fail, "not shared", "attach"},
	{"port-memory", "mapped", nil, OK, "512 MiB in 1 regions", ""},
	{"port-memory", "part", func(r *rig) { r.port().Memory[0].Size = 256 << 20 }, Warn, "256 of 512 MiB", "NUMA"},
	{"port-memory", "none", func(r *rig) { r.port().Memory = nil }, Fail, "nothing is mapped", "attach"},
	{"port-memory", "not yet", func(r *rig) { r.port().Memory, r.port().Queues = nil, nil }, NotApplicable, "", ""},

	{"port-features", "fine", nil, OK, "no LOG_SHMFD", ""},
	{"port-features", "queues", func(r *rig) { r.edit("queues='1'", "queues='4'") }, Warn, "1 of 4 queue pairs run", "combined 4"},
	{"port-features", "packed", func(r *rig) { r.edit("queues='1'", "packed='on'") }, Warn, "split", "Linux 5.0"},
	{"port-features", "legacy", func(r *rig) { r.port().Features = []string{names.FeatureMTU} }, Warn, "legacy", "driver"},
	{"port-features", "none", func(r *rig) { r.port().Features = nil }, NotApplicable, "", ""},

	{"port-mtu", "one", nil, OK, "1500", ""},
	{"port-mtu", "asked for more", func(r *rig) { r.edit("<alias", "<mtu size='9000'/><alias") }, Warn, "<mtu size='9000'/>, and the port has 1500", "mtu 9000"},
	{"port-mtu", "uplink", func(r *rig) { r.sw.after.Uplink.MTU = 1400 }, Warn, "the uplink vhk0 has 1400", "ip link set vhk0 mtu 1500"},
	{"port-mtu", "not connected", func(r *rig) { r.port().MTU = 0 }, NotApplicable, "", ""},

	{"port-drops", "none", nil, OK, "", ""},
	{"port-drops", "rising", func(r *rig) { r.port().Queues[0].TX.Drops = map[string]uint64{"oversized": 2} }, Warn, "tx oversized +2", "MTU"},
	{"port-drops", "no port", func(r *rig) { r.sw.after.Ports = nil }, NotApplicable, "", ""},

	{"cores", "apart", nil, OK, "[2]", ""},
	{"cores", "shared", func(r *rig) { r.sw.after.Workers[0].Core = 5 }, Warn, "cores [5]", "--cores"},
	{"cores", "not pinned", func(r *rig) { r.sw.after.Workers[0].Core = -1 }, OK, "not pinned", ""},
	{"cores", "guest not pinned", func(r *rig) { r.edit("<vcpupin vcpu='0' cpuset='4-5'/>", "") }, OK, "guest's CPUs are not pinned", ""},
	{"cores", "no switchd", func(r *rig) { r.sw.err = errors.New("x") }, NotApplicable, "", ""},
}
