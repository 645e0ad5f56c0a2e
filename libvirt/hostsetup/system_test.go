package hostsetup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vhostkit/internal/sysedit"
)

func TestCgroupVersions(t *testing.T) {
	for _, c := range []struct {
		name, mounts, controllers string
		command, note             bool
	}{
		{"v2", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", controllers, false, true},
		{"v1", "cgroup /sys/fs/cgroup/devices cgroup rw,devices 0 0\n", controllers, false, false},
		{"both, and devices mounted", "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/devices cgroup rw,devices 0 0\n", controllers, false, false},
		{"both, and devices missing", "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n", controllers, true, false},
		{"a kernel without it", "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n", "cpu 1 1 1\n", false, true},
		{"switched off", "", "devices 0 1 0\n", false, true},
	} {
		h := newHost(t, map[string]string{"/proc/mounts": c.mounts, "/proc/cgroups": c.controllers})
		p, err := Prepare(h.system, Options{Devices: []string{"/dev/usvhost"}})
		if err != nil {
			t.Fatal(err)
		}
		command := slices.ContainsFunc(p.Commands, func(c Command) bool { return c.Argv[0] == "mount" })
		note := slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, "has to be mounted") })
		if command != c.command || note != c.note {
			t.Errorf("%s: mounts %v, says why not %v; want %v, %v: %v %q", c.name, command, note, c.command, c.note, p.Commands, p.Notes)
		}
	}
}

// TestOtherSystem: nothing is run for a system that is not the running one, whatever its files say.
func TestOtherSystem(t *testing.T) {
	h := newHost(t, map[string]string{"/proc/cgroups": controllers, "/sys/fs/selinux/enforce": "1", "/run/udev/control": ""})
	h.system.Find = func(string) bool { return false }
	p, err := Prepare(h.system, Options{Devices: []string{"/dev/usvhost"}, Wrapper: "/usr/bin/qemu-wrap", Source: h.wrapper(t), Restart: true})
	if err != nil || len(p.Commands) > 0 {
		t.Fatalf("%v, commands %v", err, p.Commands)
	}
	if !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.HasPrefix(n, "run mount -t cgroup") }) || slices.Contains(p.Files, doneFile) {
		t.Errorf("notes %q, files %q", p.Notes, p.Files)
	}
}

func TestNewerQEMU(t *testing.T) {
	h := newHost(t, map[string]string{})
	o := Options{Wrapper: "/usr/bin/qemu-wrap", Source: h.wrapper(t)}
	p, err := Prepare(h.system, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(func(string) {}); err != nil {
		t.Fatal(err)
	}
	if p, err := Prepare(h.system, o); err != nil || !p.Empty() {
		t.Fatalf("a second run: %v, %v", err, p.Commands)
	}
	// The clock of file systems is coarse: write until it has gone on.
	for deadline := time.Now().Add(5 * time.Second); ; {
		if err := os.WriteFile(h.path("/usr/bin/qemu-system-x86_64"), []byte("newer QEMU"), 0o755); err != nil {
			t.Fatal(err)
		}
		if p, err = Prepare(h.system, o); err != nil {
			t.Fatal(err)
		}
		if !p.Empty() || time.Now().After(deadline) {
			break
		}
	}
	if len(p.Commands) != 1 || !slices.Equal(p.Commands[0].Argv, []string{"touch", "--no-create", "/usr/bin/qemu-wrap"}) || len(p.Files) > 0 {
		t.Errorf("after QEMU's upgrade: %v, files %q", p.Commands, p.Files)
	}
}

func TestBadOptions(t *testing.T) {
	h := newHost(t, map[string]string{})
	source := h.wrapper(t)
	for _, o := range []Options{
		{Devices: []string{"usvhost"}}, {Devices: []string{"/etc/passwd"}}, {Devices: []string{"/dev/../etc/passwd"}},
		{Devices: []string{"/dev/a\" ]\nuser = \"root"}}, {Devices: []string{"/dev/usvhost*"}}, {Wrapper: "/usr/bin/qemu wrap", Source: source},
		{Wrapper: "qemu-wrap", Source: source}, {Wrapper: "/usr/bin/qemu-system-x86_64", Source: source},
	} {
		if _, err := Prepare(h.system, o); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// installed reads a file of the libvirt that is installed here.
func installed(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("libvirt is not installed: %v (test/setup/install.sh test)", err)
		}
		t.Skipf("libvirt is not installed: %v", err)
	}
	return string(data)
}

// TestInstalledQEMUConf edits a copy of the file that is installed here, and brings it back.
func TestInstalledQEMUConf(t *testing.T) {
	text := installed(t, "/etc/libvirt/qemu.conf")
	for _, root := range []bool{false, true} {
		h := newHost(t, map[string]string{})
		h.write(t, qemuConf, text)
		p, err := Prepare(h.system, Options{Devices: []string{"/dev/usvhost"}, AsRoot: root})
		if err != nil || !slices.Contains(p.Files, qemuConf) {
			t.Fatalf("%v, files %q", err, p.Files)
		}
		if err := p.Apply(func(string) {}); err != nil {
			t.Fatal(err)
		}
		if got := h.read(t, qemuConf); got == text || !strings.Contains(got, "\"/dev/usvhost\"") || strings.Contains(got, "\nuser = \"root\"\n") != root {
			t.Errorf("as root %v:\n%s", root, sysedit.Diff("installed", "edited", []byte(text), []byte(got)))
		}
		undo, err := Undo(h.system, false, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := undo.Apply(func(string) {}); err != nil {
			t.Fatal(err)
		}
		if h.read(t, qemuConf) != text {
			t.Error("the undo does not give the installed file back")
		}
	}
}

// TestAppArmorParses lets AppArmor's own parser read the rules, as part of a profile.
func TestAppArmorParses(t *testing.T) {
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		t.Skip("this distribution has no AppArmor")
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		if parser = "/usr/sbin/apparmor_parser"; !exists(parser) {
			if os.Getenv("CI") == "true" {
				t.Fatal("apparmor_parser is not installed (test/setup/install.sh test)")
			}
			t.Skip("apparmor_parser is not installed")
		}
	}
	h := newHost(t, map[string]string{
		appArmorAbstraction: "  include <local/abstractions/libvirt-qemu>\n", "/etc/apparmor.d/usr.sbin.libvirtd": "include <local/usr.sbin.libvirtd>",
		"/proc/mounts": "nodev /dev/hugepages hugetlbfs rw 0 0\n", wrapperConfig: "emul_path = \"/opt/qemu/bin/qemu-system-x86_64\"\nhugetlbfs_dir = \"/mnt/huge\"\n",
	})
	p, err := Prepare(h.system, Options{Devices: []string{"/dev/usvhost", "/dev/usvhost-1"}, Wrapper: "/opt/vhostkit/qemu-wrap", Source: h.wrapper(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(func(string) {}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{appArmorQEMU, appArmorLocal + "usr.sbin.libvirtd"} {
		profile := "@{PROC}=/proc/\nprofile vhostkit-test {\n" + h.read(t, path) + "}\n"
		file := filepath.Join(t.TempDir(), "profile")
		if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), parser, "--skip-kernel-load", "--skip-cache", "--skip-read-cache", file)
		cmd.WaitDelay = 10 * time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s\n%s", path, err, out, profile)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestUdevRules reads the rules as far as this host's tools do.
func TestUdevRules(t *testing.T) {
	h := newHost(t, map[string]string{})
	p, err := Prepare(h.system, Options{Devices: []string{"/dev/usvhost", "/dev/other-1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(func(string) {}); err != nil {
		t.Fatal(err)
	}
	rule := regexp.MustCompile(`^KERNEL=="[a-z0-9*-]+", MODE="0660", GROUP="kvm"$`)
	rules := 0
	for _, line := range strings.Split(strings.TrimSpace(h.read(t, udevRules)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if rules++; !rule.MatchString(line) {
			t.Errorf("not a rule: %q", line)
		}
	}
	if rules != 2 {
		t.Errorf("%d rules, want 2", rules)
	}
	// systemd has the verb since 254.
	if help, err := exec.CommandContext(t.Context(), "udevadm", "--help").Output(); err == nil && strings.Contains(string(help), "verify") {
		if out, err := exec.CommandContext(t.Context(), "udevadm", "verify", "--resolve-names=never", h.path(udevRules)).CombinedOutput(); err != nil {
			t.Errorf("udevadm verify: %v\n%s", err, out)
		}
	}
}
