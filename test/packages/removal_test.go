package packages

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// write puts a text into a file of the root, with the directories that it needs.
func write(t *testing.T, root, path, text string) {
	t.Helper()
	full := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, root, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const configuration = "/etc/vhostkit/switchd.toml"

// checkUpgrade: what the administrator wrote stays over the same version again, and over a newer one.
func checkUpgrade(t *testing.T, root string) {
	mine := read(t, root, configuration) + "mtu = 9000\n"
	write(t, root, configuration, mine)
	write(t, root, "/var/lib/vhostkit/switchd/ports.json", "remembered")
	in(t, root, "systemctl", "enable", "switchd.service", "vhostkit-hugepages.service")
	for _, version := range []string{firstVersion, secondVersion, firstVersion, secondVersion} {
		install(t, root, version)
		if got := in(t, root, "dpkg-query", "-W", "-f", "${Status} ${Version}", "vhostkit"); got != "install ok installed "+version {
			t.Fatalf("after the installation of %s: %q", version, got)
		}
		if got := read(t, root, configuration); got != mine {
			t.Errorf("version %s changed the configuration:\n%s", version, got)
		}
		if got := read(t, root, "/var/lib/vhostkit/switchd/ports.json"); got != "remembered" {
			t.Errorf("version %s changed what the switch remembers: %q", version, got)
		}
		if _, err := os.Lstat(filepath.Join(root, "etc/systemd/system/multi-user.target.wants/switchd.service")); err != nil {
			t.Errorf("after an upgrade the switch is not enabled any more: %v", err)
		}
	}
	if list, err := filepath.Glob(root + "/etc/vhostkit/*dpkg*"); err != nil || len(list) > 0 {
		t.Errorf("an upgrade without a change leaves questions behind: %q (%v)", list, err)
	}
}

// checkRemoval: removed, only the configuration and what the switch remembers are left; purged, nothing.
func checkRemoval(t *testing.T, root string, before map[string]string) {
	out := in(t, root, "apt-get", "-q", "-y", "remove", "vhostkit")
	if strings.Contains(out, "to undo it") {
		t.Errorf("a warning about changes that nobody made:\n%s", out)
	}
	if !strings.Contains(read(t, root, configuration), "mtu = 9000") {
		t.Error("the configuration is gone, or not as it was")
	}
	left := regexp.MustCompile(`^\w+: (/etc/vhostkit|/var/lib/vhostkit|/etc/apparmor.d/|/etc/(passwd|group|shadow|gshadow) )`)
	for _, d := range differences(before, snapshot(t, root)) {
		if !left.MatchString(d) && !isKVM(d) && !strings.Contains(d, "/etc/apparmor.d ") {
			t.Errorf("after remove: %s", d)
		}
	}
	// The originals of files that were changed and not changed back are not thrown away.
	write(t, root, "/var/lib/vhostkit/hugepages.json", "{}")
	install(t, root, secondVersion)
	if out := in(t, root, "apt-get", "-q", "-y", "purge", "vhostkit"); !strings.Contains(out, "vhostctl hugepages undo") || !strings.Contains(out, "is kept") {
		t.Errorf("nothing is said of the changes that are left:\n%s", out)
	}
	read(t, root, "/var/lib/vhostkit/hugepages.json")
	install(t, root, firstVersion)
	if err := os.Remove(filepath.Join(root, "var/lib/vhostkit/hugepages.json")); err != nil {
		t.Fatal(err)
	}
	in(t, root, "apt-get", "-q", "-y", "purge", "vhostkit")
	for _, d := range differences(before, snapshot(t, root)) {
		if !isKVM(d) {
			t.Errorf("after purge: %s", d)
		}
	}
	for _, file := range []string{"passwd", "group", "shadow", "gshadow"} {
		if strings.Contains(read(t, root, "/etc/"+file), "vhostkit") {
			t.Errorf("after purge: /etc/%s names vhostkit", file)
		}
	}
}

// isKVM: the group kvm, which is there on every host with QEMU, may have been made. It is not the switch's, and stays.
func isKVM(difference string) bool {
	return regexp.MustCompile(`^changed: /etc/g?(group|shadow) `).MatchString(difference)
}
