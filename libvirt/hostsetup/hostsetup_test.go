package hostsetup

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vhostkit/internal/sysedit"
	"vhostkit/libvirt/qemuconf"
)

const conf = "# libvirt\n#cgroup_controllers = [ \"cpu\", \"devices\" ]\n#cgroup_device_acl = [\n#    \"/dev/null\", \"/dev/kvm\"\n#]\n#user = \"me\"\n"

// host is a system below a directory.
type host struct {
	system System
	root   string
	ran    [][]string
}

func newHost(t *testing.T, files map[string]string) *host {
	t.Helper()
	h := &host{root: t.TempDir()}
	files["/etc/libvirt/qemu.conf"] = conf
	files["/usr/bin/qemu-system-x86_64"] = "QEMU"
	files["/proc/mounts"] += "proc /proc proc rw 0 0\n"
	for path, content := range files {
		h.write(t, path, content)
	}
	if err := os.Chmod(h.path("/usr/bin/qemu-system-x86_64"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.system = System{
		Store: sysedit.Store{Root: h.root}, Find: func(string) bool { return true },
		Run: func(argv ...string) (string, error) { h.ran = append(h.ran, argv); return "", nil },
	}
	return h
}

func (h *host) path(path string) string { return filepath.Join(h.root, path) }

func (h *host) write(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(h.path(path)), 0o755), os.WriteFile(h.path(path), []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func (h *host) read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(h.path(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// files are all files but the store's own, with their modes.
func (h *host) files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(h.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, sysedit.DefaultState) {
			return err
		}
		data, err := os.ReadFile(path)
		info, _ := d.Info()
		all[path] = info.Mode().String() + string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (h *host) wrapper(t *testing.T) string {
	t.Helper()
	source := filepath.Join(t.TempDir(), "qemu-wrap")
	if err := os.WriteFile(source, []byte("\x7fELF wrapper"), 0o700); err != nil {
		t.Fatal(err)
	}
	return source
}

func TestInstallAndUndo(t *testing.T) {
	h := newHost(t, map[string]string{
		"/etc/apparmor.d/usr.sbin.libvirtd": "profile", "/etc/apparmor.d/local/abstractions/libvirt-qemu": "  /mine r,\n",
		appArmorAbstraction: "  include if exists <local/abstractions/libvirt-qemu>\n", "/sys/module/apparmor/parameters/enabled": "Y\n",
		"/run/udev/control": "",
		"/proc/mounts":      "nodev /mnt/huge hugetlbfs rw 0 0\nnodev /dev/hugepages hugetlbfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
	})
	before := h.files(t)
	o := Options{Devices: []string{"/dev/usvhost", "/dev/other"}, AsRoot: true, Wrapper: "/opt/vhostkit/qemu-wrap", Source: h.wrapper(t), Restart: true}
	p, err := Prepare(h.system, o)
	if err != nil || p.Empty() || len(h.ran) > 0 || !maps.Equal(before, h.files(t)) {
		t.Fatalf("preparing changed something: %v, %v", err, h.ran)
	}
	if err := p.Apply(func(string) {}); err != nil {
		t.Fatal(err)
	}
	for path, wants := range map[string][]string{
		"/etc/libvirt/qemu.conf":                          {`cgroup_device_acl = [ "/dev/null", "/dev/kvm", "/dev/usvhost", "/dev/other" ]`, "\nuser = \"root\"\n", "clear_emulator_capabilities = 0"},
		"/etc/udev/rules.d/60-vhostkit.rules":             {`KERNEL=="usvhost*", MODE="0660", GROUP="kvm"`, `KERNEL=="other"`},
		"/etc/apparmor.d/local/abstractions/libvirt-qemu": {"  /mine r,\n  # vhostkit begin", "/opt/vhostkit/qemu-wrap rmix,", "/dev/other rw,", "  /dev/hugepages/ r,\n  owner /dev/hugepages/** rwk,", "  owner /mnt/huge/** rwk,"},
		"/etc/apparmor.d/local/usr.sbin.libvirtd":         {"/opt/vhostkit/qemu-wrap PUx,"},
		"/opt/vhostkit/qemu-wrap":                         {"wrapper"},
	} {
		for _, want := range wants {
			if got := h.read(t, path); !strings.Contains(got, want) {
				t.Errorf("%s lacks %q:\n%s", path, want, got)
			}
		}
	}
	if info, err := os.Stat(h.path("/opt/vhostkit/qemu-wrap")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the wrapper's mode is %v, %v; want QEMU's", info.Mode(), err)
	}
	var programs []string
	for _, argv := range h.ran {
		programs = append(programs, argv[0])
	}
	if !slices.Equal(programs, []string{"udevadm", "udevadm", "apparmor_parser", "systemctl"}) {
		t.Errorf("ran %v", h.ran)
	}
	again, err := Prepare(h.system, o)
	if err != nil || !again.Empty() || again.Diff() != "" || len(again.Commands) > 0 {
		t.Errorf("a second run: %v, commands %v\n%s", err, again.Commands, again.Diff())
	}
	undo, err := Undo(h.system, false, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := undo.Apply(func(string) {}); err != nil {
		t.Fatal(err)
	}
	if n := len(h.ran); n != 7 || h.ran[6][0] != "apparmor_parser" {
		t.Errorf("after the undo, ran %v", h.ran)
	}
	if after := h.files(t); !maps.Equal(before, after) {
		t.Errorf("undo left %q, want %q", after, before)
	}
	if _, err := Undo(h.system, false, false); !errors.Is(err, sysedit.ErrNothing) {
		t.Errorf("undo twice: %v", err)
	}
}

// TestVhostUserNeedsLittle: without devices qemu.conf stays as it is.
func TestVhostUserNeedsLittle(t *testing.T) {
	h := newHost(t, map[string]string{})
	p, err := Prepare(h.system, Options{Wrapper: "/usr/bin/qemu-wrap", Source: h.wrapper(t)})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/usr/bin/qemu-wrap"}; !slices.Equal(p.Files, want) {
		t.Errorf("changes %v, want %v", p.Files, want)
	}
	if !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, "systemctl restart libvirtd") }) {
		t.Errorf("notes %q do not tell to restart libvirt", p.Notes)
	}
}

const controllers = "#subsys_name hierarchy num_cgroups enabled\ncpu 1 1 1\ndevices 2 1 1\n"

func TestSELinuxAndOldCgroups(t *testing.T) {
	h := newHost(t, map[string]string{"/sys/fs/selinux/enforce": "1", "/proc/cgroups": controllers, "/usr/lib/systemd/system/virtqemud.service": ""})
	p, err := Prepare(h.system, Options{Wrapper: "/usr/bin/qemu-wrap", Source: h.wrapper(t), Devices: []string{"/dev/usvhost"}, Restart: true})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range p.Commands {
		all = append(all, strings.Join(c.Argv, " "))
	}
	for _, want := range []string{
		"mkdir -p /dev/cgroup", "mount -t cgroup none /dev/cgroup -o devices", "semanage fcontext --add --type qemu_exec_t /usr/bin/qemu-wrap", "restorecon -v /usr/bin/qemu-wrap",
		"systemctl try-restart virtqemud.service",
	} {
		if !slices.Contains(all, want) {
			t.Errorf("commands %q lack %q", all, want)
		}
	}
	if err := p.Apply(func(string) {}); err != nil {
		t.Fatal(err)
	}

	// Now as the commands left it: nothing more to do, also for a new wrapper; and the undo takes both back.
	h.write(t, "/etc/selinux/targeted/contexts/files/file_contexts.local", "/usr/bin/qemu-wrap    system_u:object_r:qemu_exec_t:s0\n")
	h.write(t, "/proc/mounts", "none /dev/cgroup cgroup rw,devices 0 0\n")
	h.write(t, "/usr/bin/qemu-wrap", "an older wrapper")
	again, err := Prepare(h.system, Options{Wrapper: "/usr/bin/qemu-wrap", Source: h.wrapper(t), Devices: []string{"/dev/usvhost"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range again.Commands {
		if c.Argv[0] == "semanage" || c.Argv[0] == "mount" {
			t.Errorf("a second run has %v", c.Argv)
		}
	}
	if err := again.Apply(func(string) {}); err != nil {
		t.Fatal(err)
	}
	h.ran = nil
	undo, err := Undo(h.system, false, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := undo.Apply(func(string) {}); err != nil {
		t.Fatal(err)
	}
	if want := [][]string{{"semanage", "fcontext", "--delete", "/usr/bin/qemu-wrap"}, {"umount", "/dev/cgroup"}}; !slices.EqualFunc(h.ran, want, slices.Equal) {
		t.Errorf("the undo ran %q, want %q", h.ran, want)
	}
}

func TestRefusals(t *testing.T) {
	h := newHost(t, map[string]string{})
	h.write(t, "/etc/libvirt/qemu.conf", "cgroup_device_acl = [ \n")
	_, err := Prepare(h.system, Options{Devices: []string{"/dev/usvhost"}})
	if !errors.Is(err, qemuconf.ErrSyntax) || !strings.Contains(err.Error(), "add by hand") {
		t.Errorf("a broken qemu.conf: %v", err)
	}
	if err := os.Remove(h.path("/etc/libvirt/qemu.conf")); err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(h.system, Options{}); err == nil || !strings.Contains(err.Error(), "install libvirt") {
		t.Errorf("without libvirt: %v", err)
	}
	h = newHost(t, map[string]string{appArmorAbstraction: "", "/etc/apparmor.d/local/abstractions/libvirt-qemu": blockBegin})
	if _, err := Prepare(h.system, Options{}); err == nil || !strings.Contains(err.Error(), "fix it by hand") {
		t.Errorf("a half block: %v", err)
	}
	if _, err := Prepare(newHost(t, map[string]string{}).system, Options{Wrapper: "/usr/bin/qemu-wrap", Source: "/no/such"}); err == nil {
		t.Error("a wrapper that is not there was accepted")
	}
}

// TestFailingCommand: the files stay, and the user learns what is left to do.
func TestFailingCommand(t *testing.T) {
	h := newHost(t, map[string]string{})
	p, err := Prepare(h.system, Options{Wrapper: "/usr/bin/qemu-wrap", Source: h.wrapper(t), Restart: true})
	if err != nil {
		t.Fatal(err)
	}
	p.run = func(...string) (string, error) { return "no bus", errors.New("exit status 1") }
	if err := p.Apply(func(string) {}); err == nil || !strings.Contains(err.Error(), "run it by hand") || !strings.Contains(err.Error(), "no bus") {
		t.Errorf("%v", err)
	}
	if h.read(t, "/usr/bin/qemu-wrap") == "" {
		t.Error("the wrapper is gone")
	}
}
