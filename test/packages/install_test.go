package packages

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// place copies a file into the root and returns its path there.
func place(t *testing.T, root, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	name := "/tmp/" + filepath.Base(file)
	if err := os.WriteFile(root+name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func install(t *testing.T, root, version string) string {
	t.Helper()
	return in(t, root, "apt-get", "-q", "-y", "--no-install-recommends", "--allow-downgrades", "--reinstall", "install", place(t, root, deb(t, version)))
}

// TestLife is the life of the package on a machine: installed, looked at, upgraded, removed, purged.
func TestLife(t *testing.T) {
	needRoot(t)
	root := cleanRoot(t)
	before := snapshot(t, root)
	out := install(t, root, firstVersion)
	for _, bad := range []string{"warning", "error", "failed", "cannot"} {
		if line := regexp.MustCompile(`(?i).*\b` + bad + `.*`).FindString(out); line != "" && !strings.Contains(line, "_apt") {
			t.Errorf("the installation says %q", line)
		}
	}
	t.Run("installed", func(t *testing.T) { checkInstalled(t, root, before) })
	t.Run("units", func(t *testing.T) { checkUnits(t, root) })
	t.Run("doctor", func(t *testing.T) { checkDoctor(t, root) })
	t.Run("man", func(t *testing.T) { checkManual(t, root) })
	t.Run("completion", func(t *testing.T) { checkCompletion(t, root) })
	t.Run("check-config", func(t *testing.T) { in(t, root, "switchd", "--check-config") })
	t.Run("trigger", func(t *testing.T) { checkTrigger(t, root) })
	t.Run("upgrade", func(t *testing.T) { checkUpgrade(t, root) })
	t.Run("remove", func(t *testing.T) { checkRemoval(t, root, before) })
}

func checkInstalled(t *testing.T, root string, before map[string]string) {
	after := snapshot(t, root)
	for path, mode := range contents {
		if !strings.HasPrefix(after[path], mode+" 0:0 ") {
			t.Errorf("%s: %q, want %s of root", path, after[path], mode)
		}
	}
	passwd := in(t, root, "getent", "passwd", "vhostkit")
	f := strings.Split(strings.TrimSpace(passwd), ":")
	if len(f) != 7 || f[5] != "/var/lib/vhostkit" || !strings.HasSuffix(f[6], "nologin") {
		t.Fatalf("the user is %q", passwd)
	}
	if groups := strings.Fields(in(t, root, "id", "-nG", "vhostkit")); strings.Join(groups, " ") != "vhostkit kvm" {
		t.Errorf("its groups are %q", groups)
	}
	owner := f[2] + ":" + f[3]
	for path, want := range map[string]string{
		"/var/lib/vhostkit":         "drwxr-xr-x 0:0", // what root's vhostctl keeps there is not for the switch to change
		"/var/lib/vhostkit/switchd": "drwxr-xr-x " + owner,
	} {
		if after[path] != want {
			t.Errorf("%s: %q, want %q", path, after[path], want)
		}
	}
	for _, d := range differences(before, after) {
		path := strings.Fields(d)[1]
		_, ours := contents[path]
		if !ours && path != debOnly && !strings.Contains(path, "vhostkit") && !regexp.MustCompile(`^/etc/(passwd|group|shadow|gshadow)$`).MatchString(path) &&
			!strings.Contains(after[path], "drwxr-xr-x 0:0") {
			t.Errorf("the installation did more than it should: %s", d)
		}
	}
	// Nothing starts by itself.
	if links, err := filepath.Glob(root + "/etc/systemd/system/*.wants/switchd*"); err != nil || len(links) > 0 {
		t.Errorf("enabled by the installation: %q (%v)", links, err)
	}
}

func checkUnits(t *testing.T, root string) {
	for _, unit := range []string{"switchd.service", "switchd.socket", "vhostkit-hugepages.service"} {
		if out := in(t, root, "systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/"+unit); strings.TrimSpace(out) != "" {
			t.Errorf("systemd-analyze verify %s: %s", unit, out)
		}
	}
	out := in(t, root, "systemd-analyze", "security", "--offline=true", "--threshold=40", "--no-pager", "/usr/lib/systemd/system/switchd.service")
	level := regexp.MustCompile(`Overall exposure level.*`).FindString(out)
	if level == "" {
		t.Errorf("systemd-analyze security says nothing of the level:\n%s", out)
	}
	t.Log(level)
}

// checkDoctor: on a machine where neither libvirt nor the switch runs, the doctor says so, and what to do.
func checkDoctor(t *testing.T, root string) {
	out, err := tryIn(t, root, "vhostctl", "doctor")
	if code := exitCode(err); code != 1 && code != 2 {
		t.Errorf("exit code %d (%v), want 1 (warnings) or 2 (failures):\n%s", code, err, out)
	}
	for _, want := range []string{"switchd", "libvirt"} {
		if !strings.Contains(out, want) {
			t.Errorf("the doctor does not speak of %s:\n%s", want, out)
		}
	}
	for _, bad := range []string{"panic", "goroutine", "symbol lookup", "%!"} {
		if strings.Contains(out, bad) {
			t.Errorf("the doctor's report has %q:\n%s", bad, out)
		}
	}
	t.Log(out)
}

func checkManual(t *testing.T, root string) {
	for _, page := range []string{"switchd", "vhostctl", "qemu-wrap"} {
		file := "/usr/share/man/man8/" + page + ".8"
		if out := in(t, root, "groff", "-man", "-ww", "-z", "-Tutf8", file); strings.TrimSpace(out) != "" {
			t.Errorf("%s: groff warns: %s", page, out)
		}
		text := in(t, root, "groff", "-man", "-Tascii", "-P-cbou", file)
		for _, want := range []string{"NAME", "SYNOPSIS", page} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the page lacks %q:\n%s", page, want, text)
			}
		}
	}
}

// checkCompletion lets bash complete what an operator has begun to type.
func checkCompletion(t *testing.T, root string) {
	script := `. /usr/share/bash-completion/bash_completion
		_completion_loader vhostctl
		f=$(complete -p vhostctl | sed 's/.*-F \([^ ]*\) .*/\1/')
		COMP_WORDS=(vhostctl "$1"); COMP_CWORD=1; COMP_LINE="vhostctl $1"; COMP_POINT=${#COMP_LINE}
		"$f" vhostctl "$1" vhostctl
		printf '%s\n' "${COMPREPLY[@]}"`
	for begun, want := range map[string]string{"doc": "doctor", "hu": "hugepages", "": "ports"} {
		out := in(t, root, "bash", "-c", script, "bash", begun)
		if !regexp.MustCompile(`(?m)^` + want + `\b`).MatchString(out) {
			t.Errorf("%q is completed to %q, without %s", begun, out, want)
		}
	}
}

// checkTrigger: a new QEMU makes libvirt ask the wrapper anew what it can do, for which the wrapper's file must look new.
func checkTrigger(t *testing.T, root string) {
	wrapper := filepath.Join(root, "usr/bin/qemu-wrap")
	old := time.Unix(1e9, 0)
	for _, version := range []string{"1", "2"} {
		if err := os.Chtimes(wrapper, old, old); err != nil {
			t.Fatal(err)
		}
		in(t, root, "dpkg", "-i", place(t, root, emulatorPackage(t, version)))
		info, err := os.Stat(wrapper)
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(info.ModTime()) > time.Hour {
			t.Errorf("after version %s of QEMU was installed the wrapper is still of %v", version, info.ModTime())
		}
		if state := in(t, root, "dpkg-query", "-W", "-f", "${Status}", "vhostkit"); state != "install ok installed" {
			t.Errorf("after the trigger the package is %q", state)
		}
	}
	in(t, root, "dpkg", "--purge", "emulator")
}

// emulatorPackage stands for the distribution's package of QEMU.
func emulatorPackage(t *testing.T, version string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "emulator")
	for path, text := range map[string]string{
		"DEBIAN/control":             "Package: emulator\nVersion: " + version + "\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: stands for QEMU\n",
		"usr/bin/qemu-system-x86_64": "#!/bin/sh\necho version " + version + "\n",
	} {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command(t, time.Minute, "dpkg-deb", "--root-owner-group", "-Znone", "-b", dir, dir+".deb")
	return dir + ".deb"
}
