package packages

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// contents is all that a package puts on a machine, besides directories: path to mode.
var contents = map[string]string{
	"/etc/vhostkit/qemu-wrap.toml":                       "-rw-r--r--",
	"/etc/vhostkit/switchd.toml":                         "-rw-r--r--",
	"/usr/bin/qemu-wrap":                                 "-rwxr-xr-x",
	"/usr/bin/switchd":                                   "-rwxr-xr-x",
	"/usr/bin/vhostctl":                                  "-rwxr-xr-x",
	"/usr/lib/systemd/system/switchd.service":            "-rw-r--r--",
	"/usr/lib/systemd/system/switchd.socket":             "-rw-r--r--",
	"/usr/lib/systemd/system/vhostkit-hugepages.service": "-rw-r--r--",
	"/usr/lib/sysusers.d/vhostkit.conf":                  "-rw-r--r--",
	"/usr/lib/tmpfiles.d/vhostkit.conf":                  "-rw-r--r--",
	"/usr/lib/udev/rules.d/60-vhostkit.rules":            "-rw-r--r--",
	"/usr/share/bash-completion/completions/switchd":     "-rw-r--r--",
	"/usr/share/bash-completion/completions/vhostctl":    "-rw-r--r--",
	"/usr/share/doc/vhostkit/LICENSE":                    "-rw-r--r--",
	"/usr/share/doc/vhostkit/README.md":                  "-rw-r--r--",
	"/usr/share/doc/vhostkit/cuse.conf":                  "-rw-r--r--",
	"/usr/share/doc/vhostkit/ixgbe.conf":                 "-rw-r--r--",
	"/usr/share/doc/vhostkit/qemu-wrap.toml":             "-rw-r--r--",
	"/usr/share/doc/vhostkit/switchd.toml":               "-rw-r--r--",
	"/usr/share/fish/vendor_completions.d/switchd.fish":  "-rw-r--r--",
	"/usr/share/fish/vendor_completions.d/vhostctl.fish": "-rw-r--r--",
	"/usr/share/man/man8/qemu-wrap.8":                    "-rw-r--r--",
	"/usr/share/man/man8/switchd.8":                      "-rw-r--r--",
	"/usr/share/man/man8/vhostctl.8":                     "-rw-r--r--",
	"/usr/share/zsh/site-functions/_switchd":             "-rw-r--r--",
	"/usr/share/zsh/site-functions/_vhostctl":            "-rw-r--r--",
}

// debOnly is in the .deb besides.
const debOnly = "/etc/apparmor.d/abstractions/libvirt-qemu.d/vhostkit"

// compare reports the differences between what a package has and contents.
func compare(t *testing.T, have map[string]string) {
	t.Helper()
	for path, want := range contents {
		if have[path] != want {
			t.Errorf("%s: mode %q, want %q", path, have[path], want)
		}
	}
	for path, mode := range have {
		if contents[path] == "" {
			t.Errorf("%s (%s) is in the package: is it meant to be?", path, mode)
		}
	}
}

func TestDebContents(t *testing.T) {
	needRoot(t, "dpkg-deb")
	have := map[string]string{}
	for line := range strings.Lines(command(t, time.Minute, "dpkg-deb", "-c", deb(t, firstVersion))) {
		f := strings.Fields(line)
		path := strings.TrimPrefix(f[len(f)-1], ".")
		if f[1] != "root/root" {
			t.Errorf("%s belongs to %s", path, f[1])
		}
		if strings.HasPrefix(f[0], "d") {
			if f[0] != "drwxr-xr-x" {
				t.Errorf("directory %s: %s", path, f[0])
			}
			continue
		}
		have[path] = f[0]
	}
	if have[debOnly] != "-rw-r--r--" {
		t.Errorf("%s: mode %q", debOnly, have[debOnly])
	}
	delete(have, debOnly)
	compare(t, have)
	control := command(t, time.Minute, "dpkg-deb", "-f", deb(t, firstVersion))
	for _, want := range []string{"Package: vhostkit\n", "Version: " + firstVersion + "\n", "Section: net\n", "Architecture: amd64\n"} {
		if !strings.Contains(control, want) {
			t.Errorf("the control file lacks %q:\n%s", want, control)
		}
	}
	if got := glibc(t); !strings.Contains(control, "libc6 (>= "+got+")") {
		t.Errorf("vhostctl needs version %s of glibc, and the package does not say so:\n%s", got, control)
	}
	files := t.TempDir()
	command(t, time.Minute, "dpkg-deb", "-e", deb(t, firstVersion), files)
	conffiles, err := os.ReadFile(filepath.Join(files, "conffiles"))
	if err != nil {
		t.Fatal(err)
	}
	for path := range have {
		if isConf := slices.Contains(strings.Fields(string(conffiles)), path); isConf != strings.HasPrefix(path, "/etc/") {
			t.Errorf("%s: a configuration file for dpkg: %v", path, isConf)
		}
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		command(t, time.Minute, "sh", "-n", filepath.Join(files, script))
	}
}

// glibc is the newest version of a symbol that a program of the package asks of the C library.
func glibc(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	command(t, time.Minute, "dpkg-deb", "-x", deb(t, firstVersion), dir)
	newest := ""
	for _, name := range []string{"vhostctl", "switchd", "qemu-wrap"} {
		f, err := elf.Open(filepath.Join(dir, "usr/bin", name))
		if err != nil {
			t.Fatal(err)
		}
		symbols, err := f.ImportedSymbols()
		if name != "vhostctl" && (err == nil || f.Section(".interp") != nil) {
			t.Errorf("%s is not linked statically", name)
		}
		for _, s := range symbols {
			if v, ok := strings.CutPrefix(s.Version, "GLIBC_"); ok && (newest == "" || minor(v) > minor(newest)) {
				newest = v
			}
		}
		f.Close()
	}
	return newest
}

// minor is 34 of 2.34, and of 2.2.5 it is 2.
func minor(version string) int {
	n, err := strconv.Atoi(strings.Split(version, ".")[1])
	if err != nil {
		panic(fmt.Sprintf("version %q of glibc", version))
	}
	return n
}

func TestRPMContents(t *testing.T) {
	if _, err := exec.LookPath("rpm"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v (test/setup/install.sh test)", err)
		}
		t.Skipf("%v (test/setup/install.sh test)", err)
	}
	file := rpm(t, firstVersion)
	query := func(args ...string) string {
		return command(t, time.Minute, append(append([]string{"rpm", "--dbpath", t.TempDir(), "-qp"}, args...), file)...)
	}
	have := map[string]string{}
	for line := range strings.Lines(query("--qf", `[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILENAMES}\n]`)) {
		f := strings.Fields(line)
		if f[1] != "root" || f[2] != "root" {
			t.Errorf("%s belongs to %s:%s", f[3], f[1], f[2])
		}
		if !strings.HasPrefix(f[0], "d") {
			have[f[3]] = f[0]
		} else if f[0] != "drwxr-xr-x" || !strings.Contains(f[3], "vhostkit") {
			t.Errorf("directory %s (%s): only directories of its own belong to a package", f[3], f[0])
		}
	}
	compare(t, have)
	if got, want := strings.Fields(query("-c")), 2; len(got) < want || !strings.HasPrefix(got[0], "/etc/") {
		t.Errorf("configuration files: %q", got)
	}
	flags := query("--qf", `[%{FILEFLAGS:fflags} %{FILENAMES}\n]`)
	if !regexp.MustCompile(`(?m)^cn /etc/vhostkit/switchd.toml$`).MatchString(flags) {
		t.Errorf("the configuration would be overwritten:\n%s", flags)
	}
	info := query("--qf", "%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{LICENSE} %{OS}")
	if info != "vhostkit "+firstVersion+" 1 x86_64 Apache-2.0 linux" {
		t.Errorf("it says of itself: %q", info)
	}
	if requires := query("--requires"); !strings.Contains(requires, "glibc >= "+glibc(t)) {
		t.Errorf("it asks for\n%s", requires)
	}
	scripts := query("--scripts")
	for _, want := range []string{"postinstall", "preuninstall", "postuninstall", "systemd-sysusers", "userdel vhostkit"} {
		if !strings.Contains(scripts, want) {
			t.Errorf("the scripts lack %s:\n%s", want, scripts)
		}
	}
}

// TestSamplesAreTheConfiguration: what is documented and what is installed are the same.
func TestSamplesAreTheConfiguration(t *testing.T) {
	needRoot(t, "dpkg-deb")
	dir := t.TempDir()
	command(t, time.Minute, "dpkg-deb", "-x", deb(t, firstVersion), dir)
	for _, name := range []string{"switchd.toml", "qemu-wrap.toml"} {
		a, err := os.ReadFile(filepath.Join(dir, "etc/vhostkit", name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "usr/share/doc/vhostkit", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: the sample differs", name)
		}
	}
}
