package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/kernelargs"
)

type programs []string

func (p programs) root(t *testing.T, files ...string) Host {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		path, content, _ := strings.Cut(f, "=")
		full := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range p {
		full := filepath.Join(root, "usr/sbin", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, nil, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return Host{Root: root, Runner: Below{root}, Release: "6.1.0"}
}

const systemdBootInfo = loaderInfo + "=\x06\x00\x00\x00s\x00y\x00s\x00t\x00e\x00m\x00d\x00-\x00b\x00o\x00o\x00t\x00 \x002\x005\x005\x00\x00\x00"

func TestDetect(t *testing.T) {
	for name, c := range map[string]struct {
		programs programs
		files    []string
		want     Kind
	}{
		"debian":                  {programs{"update-grub"}, []string{defaultGRUB + "="}, GRUB},
		"fedora":                  {programs{"grubby", "grub2-mkconfig"}, []string{defaultGRUB + "=", kernelCmdline + "=", "/boot/loader/entries/a.conf="}, GRUB},
		"systemd-boot, old grub":  {nil, []string{defaultGRUB + "=", kernelCmdline + "=", systemdBootInfo}, SystemdBoot},
		"systemd-boot":            {nil, []string{"/boot/loader/entries/a.conf="}, SystemdBoot},
		"grub without a file":     {programs{"update-grub"}, []string{"/boot/grub/grub.cfg="}, GRUB},
		"silverblue":              {programs{"rpm-ostree", "grub2-mkconfig"}, []string{"/run/ostree-booted=", defaultGRUB + "="}, OSTree},
		"pop":                     {programs{"kernelstub"}, []string{kernelstubConfig + "={}", "/boot/efi/loader/entries/Pop.conf="}, Kernelstub},
		"grubby alone":            {programs{"grubby"}, nil, Grubby},
		"a container has no boot": {nil, nil, ""},
	} {
		got, err := c.programs.root(t, c.files...).Detect()
		if got != c.want || (c.want == "") != errors.Is(err, ErrNoLoader) {
			t.Errorf("%s: %q %v, want %q", name, got, err, c.want)
		}
	}
}

var wanted = kernelargs.Wanted{Pools: []kernelargs.Pool{{Size: 2 * bytesize.MiB, Count: 5}}, Base: 2 * bytesize.MiB}

func TestUnifiedKernelsAreMadeAgain(t *testing.T) {
	h := programs{"kernel-install"}.root(t, kernelCmdline+"=root=/dev/vda\n")
	p, err := h.Plan(t.Context(), wanted)
	if err != nil || len(p.Files) != 1 || len(p.Commands) != 1 || strings.Join(p.Commands[0], " ") != "kernel-install add 6.1.0 /lib/modules/6.1.0/vmlinuz" {
		t.Fatalf("%+v %v", p, err)
	}
	if _, err := (programs{}).root(t, kernelCmdline+"=root=/dev/vda\n").Plan(t.Context(), wanted); err == nil {
		t.Error("no entry and no kernel-install, and no error")
	}
}

func TestErrorsSayWhatToAddByHand(t *testing.T) {
	for name, h := range map[string]Host{
		"grub":    programs{"update-grub"}.root(t, defaultGRUB+"=GRUB_CMDLINE_LINUX=`x`\n"),
		"entry":   programs{}.root(t, "/boot/loader/entries/a.conf=title x\n"),
		"cmdline": programs{"kernel-install"}.root(t, kernelCmdline+"=a=\"b\n"),
		"none":    programs{}.root(t),
	} {
		if _, err := h.Plan(t.Context(), wanted); err == nil || !strings.Contains(err.Error(), "by hand") || !strings.Contains(err.Error(), "hugepagesz=2M hugepages=5") {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := programs{}.root(t, defaultGRUB+"=A=b\n")
	if _, err := h.Plan(t.Context(), wanted); err == nil || !strings.Contains(err.Error(), "install GRUB's tools") {
		t.Errorf("no generator: %v", err)
	}
}

// TestRun uses programs that every system has.
func TestRun(t *testing.T) {
	s := System{}
	if !s.Has("sh") || s.Has("vhostkit-has-no-such-program") {
		t.Error("Has")
	}
	if out, err := s.Run(t.Context(), "sh", "-c", "echo out; echo message >&2"); err != nil || out != "out\n" {
		t.Errorf("%q %v", out, err)
	}
	if _, err := s.Run(t.Context(), "sh", "-c", "echo no space left >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3: no space left") {
		t.Error(err)
	}
	if _, err := s.Run(t.Context(), "vhostkit-has-no-such-program"); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Error(err)
	}
}
