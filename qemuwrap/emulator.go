package qemuwrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"time"
)

// Version is QEMU's version. The zero value is unknown.
type Version struct{ Major, Minor int }

// AtLeast compares versions; an unknown one is older than any.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

func (v Version) String() string {
	if v == (Version{}) {
		return "of unknown version"
	}
	return fmt.Sprintf("%d.%d", v.Major, v.Minor)
}

// emulatorNames are where QEMU is looked for when the configuration does not say: distributions differ.
func emulatorNames() []string {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i386"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	var list []string
	for _, dir := range []string{"/usr/bin", "/usr/libexec", "/usr/lib/qemu", "/usr/local/bin", "/usr/lib/qemu-kvm"} {
		for _, name := range []string{"qemu-system-" + arch, "qemu-kvm", "kvm"} {
			list = append(list, filepath.Join(dir, name))
		}
	}
	return list
}

// FindEmulator gives the path of the QEMU to start: the configured one, or the first that is there. It is never this very program, under
// whatever name: that would start itself for ever.
func FindEmulator(c Config) (string, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("cannot tell which program this is: %w", err)
	}
	candidates, configured := []string{c.EmulPath}, true
	if c.EmulPath == "" {
		candidates, configured = emulatorNames(), false
	}
	for _, path := range candidates {
		info, err := os.Stat(path)
		switch {
		case err != nil && configured:
			return "", fmt.Errorf("emul_path %s: %w; set it to QEMU's path in %s", path, err, DefaultConfigFile)
		case err != nil:
			continue
		case os.SameFile(info, self):
			if configured {
				return "", fmt.Errorf("emul_path %s is qemu-wrap itself: set it to QEMU's path in %s", path, DefaultConfigFile)
			}
			continue
		case info.IsDir() || info.Mode()&0o111 == 0:
			if configured {
				return "", fmt.Errorf("emul_path %s cannot be executed", path)
			}
			continue
		}
		return path, nil
	}
	return "", errors.New("no QEMU found in the usual places: install qemu-system, or set emul_path in " + DefaultConfigFile)
}

var versionLine = regexp.MustCompile(`version (\d+)\.(\d+)`)

// EmulatorVersion asks QEMU for its version. What cannot be found out is the zero Version.
func EmulatorVersion(ctx context.Context, path string) Version {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, path, "-version")
	var out bytes.Buffer
	command.Stdout = &out
	if command.Run() != nil {
		return Version{}
	}
	return parseVersion(out.String())
}

func parseVersion(text string) Version {
	m := versionLine.FindStringSubmatch(text)
	if m == nil {
		return Version{}
	}
	major, _ := strconv.Atoi(m[1]) // digits only
	minor, _ := strconv.Atoi(m[2])
	return Version{major, minor}
}
