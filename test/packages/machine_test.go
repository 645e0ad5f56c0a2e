package packages

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vhostkit/test/guest"
)

// agentUnit starts the rig's agent as a service of the guest.
const agentUnit = `[Unit]
Description=The tests' agent
DefaultDependencies=no
After=systemd-remount-fs.service
[Service]
ExecStart=/rig/agent serve
StandardError=journal+console
OOMScoreAdjust=-1000
[Install]
WantedBy=sysinit.target
`

// Services of the distribution that take time in an emulated machine and are nothing to the test.
var masked = []string{"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_reap.service", "e2scrub_all.timer", "fstrim.timer",
	"systemd-timesyncd.service", "systemd-update-utmp.service", "ldconfig.service", "systemd-pcrphase.service", "getty@tty1.service", "motd-news.timer"}

// program builds a Go program of the module, statically.
func program(t *testing.T, pkg, to string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
}

// machine is an installed system in a file.
type machine struct{ disk, stage string }

// newMachine makes a system with the package and the rig installed; prepare may change it before it is written to the disk.
func newMachine(t *testing.T, prepare func(root string)) machine {
	t.Helper()
	root := cleanRoot(t)
	install(t, root, firstVersion)
	if err := os.Mkdir(filepath.Join(root, "rig"), 0o755); err != nil {
		t.Fatal(err)
	}
	program(t, "vhostkit/test/guest/agent", filepath.Join(root, "rig/agent"))
	program(t, "vhostkit/test/packages/inside", filepath.Join(root, "rig/inside"))
	write(t, root, "/etc/systemd/system/rig.service", agentUnit)
	write(t, root, "/etc/fstab", "/dev/vda / ext4 defaults 0 0\n")
	write(t, root, "/etc/hostname", "machine\n")
	write(t, root, "/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
	in(t, root, "systemctl", "enable", "rig.service")
	in(t, root, append([]string{"systemctl", "mask"}, masked...)...)
	if err := os.MkdirAll(filepath.Join(root, "var/log/journal"), 0o755); err != nil { // kept over a reboot
		t.Fatal(err)
	}
	prepare(root)
	m := machine{filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "stage")}
	program(t, "vhostkit/test/packages/stage", m.stage)
	f, err := os.Create(m.disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	command(t, time.Minute, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, m.disk)
	return m
}

// modules are what the disk and the switch's uplink need. Older kernels have the checksum of ext4 in a module that nothing names.
func modules(t *testing.T) []string {
	t.Helper()
	list := []string{"virtio_blk", "ext4", "tun"}
	kernel, err := guest.FindKernel()
	if err != nil {
		t.Fatal(err)
	}
	dep, err := os.ReadFile(filepath.Join(kernel.Modules, "modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(dep), "/crc32c_generic.ko") {
		list = append(list, "crc32c_generic")
	}
	return list
}

// boot starts the machine and waits until its agent answers.
func (m machine) boot(ctx context.Context, t *testing.T) *guest.Guest {
	t.Helper()
	g, err := guest.Start(ctx, guest.Config{
		Name: "installed", MemoryMiB: 1024, CPUs: 2, Modules: modules(t), BootTimeout: 3 * time.Minute,
		Files: map[string]string{"/stage": m.stage},
		// Of several rdinit the last counts.
		KernelArgs: "rdinit=/stage systemd.show_status=false",
		QEMUArgs: []string{"-drive", "file=" + m.disk + ",if=none,id=disk,format=raw,cache=unsafe",
			"-device", "virtio-blk-pci,drive=disk,addr=0x1c"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the guest's console:\n%s", tail(g.Console(), 40))
		}
		g.Kill()
	})
	return g
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
