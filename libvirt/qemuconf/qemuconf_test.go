package qemuconf

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// The sections in question as different versions of libvirt ship them: which devices the default list has, and how it is laid out.
var shipped = map[string]string{
	"6": `# comment
#cgroup_controllers = [ "cpu", "devices", "memory", "blkio", "cpuset", "cpuacct" ]

#cgroup_device_acl = [
#    "/dev/null", "/dev/full", "/dev/zero",
#    "/dev/random", "/dev/urandom",
#    "/dev/ptmx", "/dev/kvm", "/dev/kqemu",
#    "/dev/rtc","/dev/hpet"
#]
#
# RDMA
#user = "root"
#group = "root"
#clear_emulator_capabilities = 1
`,
	"7": `#cgroup_controllers = [ "cpu", "devices", "memory", "blkio", "cpuset", "cpuacct" ]
#cgroup_device_acl = [
#    "/dev/null", "/dev/full", "/dev/zero",
#    "/dev/random", "/dev/urandom",
#    "/dev/ptmx", "/dev/kvm"
#]
#user = "libvirt-qemu"
#group = "libvirt-qemu"
#clear_emulator_capabilities = 1
`,
	"9": `#cgroup_controllers = [ "cpu", "devices", "memory", "blkio", "cpuset", "cpuacct" ]
#cgroup_device_acl = [
#    "/dev/null", "/dev/full", "/dev/zero",
#    "/dev/random", "/dev/urandom",
#    "/dev/ptmx", "/dev/kvm",
#    "/dev/userfaultfd"
#]
#       user = "qemu"   # A user named "qemu"
#user = "libvirt-qemu"
#group = "libvirt-qemu"
`,
	"12": `#user = "qemu"
#cgroup_device_acl = [
#    "/dev/null", "/dev/full", "/dev/zero",
#    "/dev/random", "/dev/urandom",
#    "/dev/ptmx", "/dev/userfaultfd"
#]
`,
	"active": `user = "me" # mine
cgroup_controllers = [ "cpu" ]
cgroup_device_acl = [
    "/dev/null", "/dev/full", # some
    "/dev/mine"
]
group = "us"
`,
	"one line": `cgroup_device_acl = ["/dev/null","/dev/mine"]`,
	"crlf":     "#cgroup_device_acl = [\r\n#    \"/dev/null\",\r\n#    \"/dev/kvm\"\r\n#]\r\nuser = \"me\"\r\n",
	"empty":    "",
	"twice":    "user = \"a\"\nuser = \"b\"\ncgroup_device_acl = [ ]\n",
}

func TestEdit(t *testing.T) {
	for name, text := range shipped {
		for _, root := range []bool{false, true} {
			s := Settings{Devices: []string{"/dev/usvhost", "/dev/net/tun"}, AsRoot: root}
			got, changes, err := Edit(text, s)
			if err != nil || len(changes) == 0 {
				t.Fatalf("%s: %v, changes %q", name, err, changes)
			}
			statements, err := parse(got)
			if err != nil {
				t.Fatalf("%s: the result cannot be read: %v\n%s", name, err, got)
			}
			devices := ""
			for _, i := range last(statements, "cgroup_device_acl").value.list {
				devices += " " + strings.TrimPrefix(i.text, "/dev/")
			}
			want := map[string]string{
				"6": " null full zero random urandom ptmx kvm usvhost net/tun", "12": " null full zero random urandom ptmx userfaultfd kvm usvhost net/tun", "7": " null full zero random urandom ptmx kvm usvhost net/tun",
				"9":      " null full zero random urandom ptmx kvm userfaultfd usvhost net/tun",
				"active": " null full mine usvhost net/tun", "one line": " null mine usvhost net/tun", "crlf": " null kvm usvhost net/tun",
				"empty": " null full zero random urandom ptmx kvm usvhost net/tun", "twice": " usvhost net/tun",
			}[name]
			if devices != want {
				t.Errorf("%s: devices are%s, want%s\n%s", name, devices, want, got)
			}
			if c := last(statements, "cgroup_controllers"); c != nil && c.value.list[len(c.value.list)-1].text != "devices" && !strings.Contains(got, `"devices"`) {
				t.Errorf("%s: controllers lack devices\n%s", name, got)
			}
			u := last(statements, "user")
			if isRoot := u != nil && u.value.text == "root"; isRoot != root {
				t.Errorf("%s: as root %v gives\n%s", name, root, got)
			}
			if again, changes, err := Edit(got, s); err != nil || again != got || len(changes) > 0 {
				t.Errorf("%s: a second edit changes %q, %v", name, changes, err)
			}
			checkKept(t, name, text, got, root)
		}
	}
}

// checkKept: every line of the old text is in the new one, in its order, but for those whose value had to change.
func checkKept(t *testing.T, name, before, after string, root bool) {
	t.Helper()
	rest := after
	for _, line := range strings.Split(strings.TrimSuffix(before, "\n"), "\n") {
		i := strings.Index(rest, strings.TrimRight(line, "]\r "))
		if i < 0 {
			if root && (strings.HasPrefix(line, "user") || strings.HasPrefix(line, "group")) {
				continue
			}
			t.Errorf("%s: line %q is gone from\n%s", name, line, after)
			return
		}
		rest = rest[i:]
	}
	if strings.Contains(before, "\r\n") && strings.Count(after, "\n") != strings.Count(after, "\r\n") {
		t.Errorf("%s: line ends are mixed: %q", name, after)
	}
}

func TestEditRefuses(t *testing.T) {
	for _, text := range []string{
		"cgroup_device_acl = [ \"/dev/null\"", "cgroup_device_acl = \"/dev/null\"", "user \"x\"", "= 1", "user = 'a' 'b'", "user = \"a\nb\"", "a = [ 1 2 ]",
		"a = [ [ 1 ] ]", "a = ",
	} {
		if got, _, err := Edit(text, Settings{Devices: []string{"/dev/usvhost"}}); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
	if hand := ByHand(Settings{Devices: []string{"/dev/usvhost"}, AsRoot: true}); !strings.Contains(hand, `"/dev/usvhost"`) || !strings.Contains(hand, `user = "root"`) {
		t.Errorf("by hand: %s", hand)
	}
}

// TestInstalledFile edits the file of the libvirt that is installed here.
func TestInstalledFile(t *testing.T) {
	data, err := os.ReadFile("/etc/libvirt/qemu.conf")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no libvirt is installed: %v (test/setup/install.sh test)", err)
		}
		t.Skipf("no libvirt is installed: %v", err)
	}
	text := string(data)
	s := Settings{Devices: []string{"/dev/usvhost"}}
	got, changes, err := Edit(text, s)
	if err != nil || len(changes) == 0 {
		t.Fatalf("%v, changes %q", err, changes)
	}
	statements, err := parse(got)
	if err != nil || len(last(statements, "cgroup_device_acl").value.list) < 8 {
		t.Errorf("the result has %+v, %v", last(statements, "cgroup_device_acl"), err)
	}
	if again, _, err := Edit(got, s); err != nil || again != got {
		t.Errorf("a second edit changes the file: %v", err)
	}
	checkKept(t, "installed", text, got, false)
}

func FuzzEdit(f *testing.F) {
	for _, text := range shipped {
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, root bool) {
		s := Settings{Devices: []string{"/dev/usvhost"}, AsRoot: root}
		got, _, err := Edit(text, s)
		if err != nil {
			return
		}
		if _, err := parse(got); err != nil {
			t.Fatalf("the result cannot be read: %v\n%q", err, got)
		}
		if again, changes, err := Edit(got, s); err != nil || again != got {
			t.Fatalf("a second edit changes %q, %v:\n%q\n%q", changes, err, got, again)
		}
	})
}
