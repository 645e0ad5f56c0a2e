package qemuwrap

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// call runs the wrapper with a script as emulator, and returns what would be executed.
func call(t *testing.T, config string, environ []string, args ...string) (argv []string, out string, err error) {
	t.Helper()
	dir := t.TempDir()
	emulator := filepath.Join(dir, "qemu")
	script := "#!/bin/sh\necho 'QEMU emulator version 7.2.1 (Debian)'\n"
	if err := os.WriteFile(emulator, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "qemu-wrap.toml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "QEMU", emulator)), 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	w := Wrapper{
		Args: args, Environ: append(environ, "QEMU_WRAP_CONFIG="+file), Stdout: &stdout,
		Dial: func(string) Switch { return &fakeSwitch{} },
		Exec: func(path string, a, _ []string) error {
			if path != emulator {
				t.Errorf("started %s, want %s", path, emulator)
			}
			argv = a
			return nil
		},
	}
	err = w.Run(context.Background())
	return argv, stdout.String(), err
}

func TestRun(t *testing.T) {
	argv, _, _ := call(t, `emul_path = "QEMU"`, nil, "-m", "64", "-netdev", "tap,id=n", "-device", "virtio-net-pci,netdev=n")
	if !slices.Contains(argv, "vhost-user,id=n,chardev=vhostkit-n") || !strings.HasSuffix(argv[0], "/qemu") {
		t.Errorf("executed %q", argv)
	}
	argv, _, _ = call(t, `emul_path = "QEMU"`, []string{"QEMU_WRAP_INTERFACES=net7", "QEMU_WRAP_EMUL_OPTS_USER=-boot c"}, "-m", "64", "-netdev", "tap,id=n")
	if want := []string{argv[0], "-boot", "c", "-m", "64", "-netdev", "tap,id=n"}; !slices.Equal(argv, want) {
		t.Errorf("executed %q, want %q", argv, want)
	}
	argv, out, err := call(t, `emul_path = "QEMU"`, nil, "--dry-run", "--", "-m", "64", "-netdev", "tap,id=n", "-name", "it's")
	if argv != nil || err != nil || !strings.Contains(out, `-name 'it'\''s'`) || !strings.Contains(out, "# netdev n: vhost-user on") {
		t.Errorf("a dry run executed %q, printed %q, %v", argv, out, err)
	}
}

func TestRunRefuses(t *testing.T) {
	for config, want := range map[string]string{
		`emul_path = "/no/such"`: "no such file", `mode = "kernel"`: `want vhost-user or cuse`, `nonsense = 1`: `unknown key "nonsense"`,
		`emul_path = "/proc/self/exe"`: "qemu-wrap itself", `emul_path = "/etc"`: "cannot be executed", `interfaces = [1]`: "is no string",
	} {
		argv, _, err := call(t, config, nil, "-m", "64")
		if argv != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: executed %q, %v; want %q", config, argv, err, want)
		}
	}
	if _, _, err := call(t, `emul_path = "QEMU"`, []string{"QEMU_WRAP_MOOD=good"}, "-m", "64"); err == nil {
		t.Error("an unknown variable was accepted")
	}
}

// TestProbeWithBrokenConfig: libvirt must learn what QEMU can do also while the configuration is wrong.
func TestProbeWithBrokenConfig(t *testing.T) {
	w := Wrapper{
		Args: []string{"-version"}, Environ: []string{"QEMU_WRAP_CONFIG=/no/such/file"}, Dial: func(string) Switch { return &fakeSwitch{} },
		Exec: func(string, []string, []string) error { return errors.New("executed") },
	}
	if err := w.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "executed") {
		t.Errorf("a probe ended with: %v", err)
	}
}

func TestFindEmulatorIsNeverItself(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "qemu-system-x86_64")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	if path, err := FindEmulator(Config{EmulPath: link}); err == nil {
		t.Errorf("found itself as %s", path)
	}
}
