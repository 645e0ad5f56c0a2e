package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/switchd/control/names"
)

// fakeFile is an entry of fakeFiles; directories between are there by themselves, root's, mode 0755.
type fakeFile struct {
	FileInfo
	content, link string
	attributes    map[string]string
	err           error // of reading and stat
}

type fakeFiles map[string]*fakeFile

func (f fakeFiles) put(file, content string) *fakeFile {
	n := &fakeFile{content: content, FileInfo: FileInfo{Mode: 0o644, Inode: uint64(len(f) + 100), Modified: daemonStart, Changed: daemonStart}}
	f[file] = n
	return n
}

func (f fakeFiles) mode(file string, mode fs.FileMode, uid, gid int) *fakeFile {
	n := f[file]
	if n == nil {
		n = f.put(file, "")
	}
	n.Mode, n.UID, n.GID = mode, uid, gid
	return n
}

func (f fakeFiles) find(file string) (*fakeFile, error) {
	file = path.Clean(file)
	if n := f[file]; n != nil {
		return n, n.err
	}
	for name := range f {
		if strings.HasPrefix(name, strings.TrimSuffix(file, "/")+"/") {
			return &fakeFile{FileInfo: FileInfo{Mode: fs.ModeDir | 0o755}}, nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: file, Err: fs.ErrNotExist}
}

func (f fakeFiles) ReadFile(file string) ([]byte, error) {
	n, err := f.find(file)
	if err != nil {
		return nil, err
	}
	return []byte(n.content), nil
}

func (f fakeFiles) ReadDir(dir string) ([]string, error) {
	if _, err := f.find(dir); err != nil {
		return nil, err
	}
	var names []string
	for name := range f {
		if rest, ok := strings.CutPrefix(name, strings.TrimSuffix(dir, "/")+"/"); ok {
			first, _, _ := strings.Cut(rest, "/")
			if !slices.Contains(names, first) {
				names = append(names, first)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

func (f fakeFiles) Stat(file string) (FileInfo, error) {
	n, err := f.find(file)
	if err != nil {
		return FileInfo{}, err
	}
	return n.FileInfo, nil
}

func (f fakeFiles) Readlink(file string) (string, error) {
	n, err := f.find(file)
	if err != nil || n.link == "" {
		return "", fs.ErrNotExist
	}
	return n.link, nil
}

func (f fakeFiles) Resolve(file string) (string, error) {
	_, err := f.find(file)
	return file, err
}

func (f fakeFiles) Attribute(file, name string) string {
	if n := f[file]; n != nil {
		return n.attributes[name]
	}
	return ""
}

type fakeSwitch struct {
	version       control.VersionInfo
	before, after control.Stats
	calls         int
	err           error
}

func (s *fakeSwitch) Version(context.Context) (control.VersionInfo, error) { return s.version, s.err }

func (s *fakeSwitch) Stats(context.Context) (control.Stats, error) {
	s.calls++
	if s.calls == 1 {
		return s.before, s.err
	}
	return s.after, s.err
}

type fakeLibvirt struct {
	version      int
	capabilities string
	domains      map[string]DomainXML
	err          error
}

func (l *fakeLibvirt) Version(context.Context) (int, error)         { return l.version, l.err }
func (l *fakeLibvirt) Capabilities(context.Context) (string, error) { return l.capabilities, l.err }
func (l *fakeLibvirt) DomainNames(context.Context) ([]string, error) {
	return sortedKeys(l.domains), l.err
}
func (l *fakeLibvirt) Domain(_ context.Context, name string) (DomainXML, error) {
	x, found := l.domains[name]
	if !found {
		return x, errors.New("Domain not found")
	}
	return x, l.err
}

var daemonStart = time.Unix(1_700_000_000, 0)

// Who and what the rig's host has.
const (
	qemuUID, kvmGID = 64055, 109
	guestPID        = 900
	socketFile      = "/run/vhostkit/ports/vm1-net0.sock"
	guestMAC        = "52:54:00:00:00:01"
	healthyXML      = `<domain type='kvm'><name>vm1</name><memory unit='KiB'>524288</memory>
<memoryBacking><hugepages/><source type='memfd'/><access mode='shared'/></memoryBacking>
<os><type machine='pc-q35-7.2'>hvm</type><boot dev='hd'/></os><cputune><vcpupin vcpu='0' cpuset='4-5'/></cputune>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='pci' index='1' model='pcie-root-port'/><controller type='pci' index='2' model='pcie-root-port'/>
<interface type='vhostuser'><mac address='52:54:00:00:00:01'/>
<source type='unix' path='/run/vhostkit/ports/vm1-net0.sock' mode='client'><reconnect enabled='yes' timeout='1'/></source>
<model type='virtio'/><driver name='vhost' queues='1'><host csum='off' gso='off' tso4='off'/><guest csum='off' tso4='off' tso6='off' ecn='off'/></driver>
<alias name='net0'/><address type='pci' bus='0x01' slot='0x00'/></interface></devices></domain>`
)

// rig is a host where all is well, with a running domain. Tests break it.
type rig struct {
	files   fakeFiles
	sw      *fakeSwitch
	libvirt *fakeLibvirt
	env     *Env
	qemu    string // what QEMU --version answers
	connect error
}

func newRig() *rig {
	r := &rig{files: fakeFiles{}, qemu: "QEMU emulator version 10.1.0 (Debian 1:10.1)\nCopyright"}
	f := r.files
	f.mode("/dev/kvm", fs.ModeCharDevice|0o660, 0, kvmGID)
	f.put("/proc/cpuinfo", "flags : fpu vmx sse\n")
	f.put("/proc/cmdline", "root=/dev/vda hugepagesz=2M hugepages=512")
	f.put("/proc/meminfo", "HugePages_Total: 512\nHugepagesize:       2048 kB\n")
	f.put("/proc/stat", fmt.Sprintf("cpu 1 2\nbtime %d\n", daemonStart.Unix()-1000))
	f.put("/proc/self/mounts", "/dev/vda / ext4 rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n")
	f.mode("/dev/hugepages/libvirt/qemu", fs.ModeDir|0o755, 0, 0)
	r.pool(hostPools, 2048, 512, 512)
	r.pool("/sys/devices/system/node/node0/hugepages", 2048, 512, 512)
	f.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\nlibvirt-qemu:x:64055:109::/:/bin/false\n")
	f.put("/etc/group", "root:x:0:\nkvm:x:109:libvirt-qemu\nswitch:x:777:libvirt-qemu\n")
	f.put("/etc/libvirt/qemu.conf", "#user = \"root\"\n")
	f.put("/etc/os-release", "ID=debian\n")
	f.mode("/usr/bin/qemu-system-x86_64", 0o755, 0, 0)
	f.mode("/usr/sbin/libvirtd", 0o755, 0, 0)
	f.mode(socketFile, fs.ModeSocket|0o660, 0, kvmGID)
	r.process(700, "libvirtd", "/usr/sbin/libvirtd", 0, 0, "/usr/sbin/libvirtd")
	r.process(800, "switchd", "/usr/sbin/switchd", 0, 0, "switchd")
	r.process(guestPID, "qemu-system-x86", "/usr/bin/qemu-system-x86_64", qemuUID, kvmGID, "qemu-system-x86_64", "-name", "guest=vm1,debug-threads=on",
		"-object", `{"qom-type":"memory-backend-memfd","hugetlb":true,"share":true,"prealloc":true}`)
	f.put("/run/libvirt/qemu/vm1.pid", fmt.Sprintln(guestPID))
	for _, pid := range []int{700, 800} {
		f.put(fmt.Sprintf("/proc/%d/ns/user", pid), "").link = "user:[1]"
		n := f.mode(fmt.Sprintf("/proc/%d/root/run/vhostkit/ports", pid), fs.ModeDir|0o755, 0, 0)
		n.Inode = 55
	}
	connected := daemonStart
	port := control.Port{
		ID: 0, Name: "vm1-net0", Socket: socketFile, State: control.StateReady, MACs: []string{guestMAC}, VLAN: 1000, Connected: &connected,
		Peer: &control.Peer{PID: guestPID, UID: qemuUID, GID: kvmGID}, Features: []string{names.FeatureVersion1}, Ring: names.RingSplit, MTU: 1500,
		ProtocolFeatures: []string{names.ProtocolMQ}, Memory: []control.MemoryRegion{{Size: 512 << 20}},
		Queues: []control.Queue{{RXRunning: true, TXRunning: true}},
	}
	stats := func() control.Stats {
		p := port
		p.Queues = slices.Clone(port.Queues)
		return control.Stats{Ports: []control.Port{p}, Workers: []control.Worker{{Core: 2}}, Uplink: control.UplinkStats{Name: "vhk0", Driver: names.UplinkTap,
			Up: true, Carrier: true, MTU: 1500}}
	}
	r.sw = &fakeSwitch{version: control.VersionInfo{Version: "v1", PID: 800}, before: stats(), after: stats()}
	r.libvirt = &fakeLibvirt{version: 9_000_000, domains: map[string]DomainXML{"vm1": {Name: "vm1", Config: healthyXML, Live: healthyXML}},
		capabilities: `<capabilities><host><secmodel><model>apparmor</model></secmodel><secmodel><model>dac</model><doi>0</doi>
<baselabel type='kvm'>+64055:+109</baselabel></secmodel></host></capabilities>`}
	r.env = &Env{
		Files: f, Switch: r.sw, Domain: "vm1", Version: "v1", SocketDir: "/run/vhostkit/ports",
		Run: func(_ context.Context, name string, args ...string) (string, error) {
			if r.qemu == "" {
				return "", fmt.Errorf("%s %v: not started", name, args)
			}
			return r.qemu, nil
		},
		Connect: func(context.Context) (Libvirt, error) { return r.libvirt, r.connect },
	}
	return r
}

func (r *rig) pool(dir string, kib, total, free int) {
	at := fmt.Sprintf("%s/hugepages-%dkB/", dir, kib)
	for name, n := range map[string]int{"nr_hugepages": total, "free_hugepages": free, "surplus_hugepages": 0, "resv_hugepages": 0,
		"nr_overcommit_hugepages": 0} {
		r.files.put(at+name, fmt.Sprintln(n))
	}
}

// process makes /proc/PID, of a process that started at daemonStart.
func (r *rig) process(pid int, comm, exe string, uid, gid int, args ...string) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	r.files.put(dir+"exe", "").link = exe
	r.files.put(dir+"cmdline", strings.Join(args, "\x00")+"\x00")
	r.files.put(dir+"stat", fmt.Sprintf("%d (%s) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 100000 0", pid, comm))
	r.files.put(dir+"status", fmt.Sprintf("Name:\tx\nUid:\t%d\t%d\t%d\t%d\nGid:\t%d\t%d\t%d\t%d\nGroups:\t%d \n", uid, uid, uid, uid, gid, gid, gid, gid, gid))
}

// edit changes the domain's XML, both what runs and what is configured.
func (r *rig) edit(old, replacement string) {
	x := r.libvirt.domains["vm1"]
	x.Config, x.Live = strings.Replace(x.Config, old, replacement, 1), strings.Replace(x.Live, old, replacement, 1)
	r.libvirt.domains["vm1"] = x
}

// stop leaves the domain shut off.
func (r *rig) stop() {
	x := r.libvirt.domains["vm1"]
	x.Live = ""
	r.libvirt.domains["vm1"] = x
	delete(r.files, "/run/libvirt/qemu/vm1.pid")
	for name := range r.files {
		if strings.HasPrefix(name, fmt.Sprintf("/proc/%d/", guestPID)) {
			delete(r.files, name)
		}
	}
}

// port is the domain's port in the later reading.
func (r *rig) port() *control.Port { return &r.sw.after.Ports[0] }

// scenario breaks the rig and says what the check must find.
type scenario struct {
	check, name string
	arrange     func(*rig)
	want        Status
	detail      string // part of it
	fix         string // part of it
}

func (s scenario) run(t *testing.T) {
	t.Helper()
	r := newRig()
	if s.arrange != nil {
		s.arrange(r)
	}
	i := slices.IndexFunc(Checks(), func(c Check) bool { return c.ID == s.check })
	if i < 0 {
		t.Fatalf("no check %s", s.check)
	}
	got := runOne(context.Background(), r.env, Checks()[i])
	if got.Status != s.want || !strings.Contains(got.Detail, s.detail) || !strings.Contains(got.Fix, s.fix) {
		t.Errorf("got %s %q\nfix %q\nwant %s %q\nfix %q", got.Status, got.Detail, got.Fix, s.want, s.detail, s.fix)
	}
	if bad := got.Status == Warn || got.Status == Fail; bad != (got.Fix != "") {
		t.Errorf("status %s with fix %q: what is wrong needs one, what is well needs none", got.Status, got.Fix)
	}
}
