package packages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rpmIn runs this machine's rpm on a root: the package's scripts run in there.
func rpmIn(t *testing.T, root string, args ...string) string {
	t.Helper()
	script := `mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/run" && exec rpm --root "$0" --dbpath /var/lib/rpm --nodeps "$@"`
	return command(t, 2*time.Minute, append([]string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, root}, args...)...)
}

// TestRPMLife installs, upgrades and removes the .rpm in the same clean root: what its scripts use is there, and what a distribution of
// the other kind would have besides does not matter to them.
func TestRPMLife(t *testing.T) {
	needRoot(t, "rpm")
	root := cleanRoot(t)
	write(t, root, "/var/lib/rpm/made", "")
	before := snapshot(t, root)
	rpmIn(t, root, "-i", rpm(t, firstVersion))
	after := snapshot(t, root)
	for path, mode := range contents {
		if !strings.HasPrefix(after[path], mode+" 0:0 ") {
			t.Errorf("%s: %q, want %s of root", path, after[path], mode)
		}
	}
	in(t, root, "id", "vhostkit")
	if out := rpmIn(t, root, "-V", "vhostkit"); strings.TrimSpace(out) != "" {
		t.Errorf("rpm finds the package changed by its own scripts: %s", out)
	}
	mine := read(t, root, configuration) + "mtu = 9000\n"
	write(t, root, configuration, mine)
	in(t, root, "systemctl", "enable", "switchd.service")
	rpmIn(t, root, "-U", rpm(t, secondVersion))
	if got := read(t, root, configuration); got != mine {
		t.Errorf("the upgrade changed the configuration:\n%s", got)
	}
	if _, err := os.Lstat(filepath.Join(root, "etc/systemd/system/multi-user.target.wants/switchd.service")); err != nil {
		t.Errorf("after an upgrade the switch is not enabled any more: %v", err)
	}
	in(t, root, "id", "vhostkit")
	rpmIn(t, root, "-e", "vhostkit")
	// What the administrator wrote is kept, as rpm does it.
	if got := read(t, root, configuration+".rpmsave"); got != mine {
		t.Errorf("the configuration that was kept: %q", got)
	}
	if err := os.RemoveAll(filepath.Join(root, "etc/vhostkit")); err != nil {
		t.Fatal(err)
	}
	for _, d := range differences(before, snapshot(t, root)) {
		// The directories of the shells are owned by packages of a distribution of that kind: this one must not claim them.
		shells := strings.HasSuffix(d, " drwxr-xr-x 0:0") && (strings.HasPrefix(d, "new: /usr/share/fish") || strings.HasPrefix(d, "new: /usr/share/zsh"))
		if !isKVM(d) && !shells && !strings.Contains(d, "/var/lib/rpm/") {
			t.Errorf("after its removal: %s", d)
		}
	}
}
