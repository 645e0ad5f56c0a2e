package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Versions that are built: the second for an upgrade.
const firstVersion, secondVersion = "1.0.0", "1.0.1"

// built holds the packages of one run of the tests; TestMain removes them.
type built struct {
	once sync.Once
	dir  string
	log  string
	err  error
}

var packages built

func TestMain(m *testing.M) {
	code := m.Run()
	if packages.dir != "" {
		_ = os.RemoveAll(packages.dir)
	}
	os.Exit(code)
}

// build makes the packages of both versions with the project's own Makefile and returns their directory.
func build(t *testing.T) string {
	t.Helper()
	packages.once.Do(func() {
		if packages.dir, packages.err = os.MkdirTemp("", "vhostkit-packages-"); packages.err != nil {
			return
		}
		for _, version := range []string{firstVersion, secondVersion} {
			cmd := exec.Command("make", "-C", "../..", "--no-print-directory", "packages", "PACKAGE_VERSION="+version,
				"PACKAGE_DIR="+packages.dir, "STAGE="+filepath.Join(packages.dir, "stage"))
			// The Makefile that runs the tests must not hand its own variables down.
			for _, v := range os.Environ() {
				if name, _, _ := strings.Cut(v, "="); name != "MAKEFLAGS" && name != "MAKELEVEL" && name != "MFLAGS" && name != "GOFLAGS" && name != "CGO_ENABLED" {
					cmd.Env = append(cmd.Env, v)
				}
			}
			cmd.WaitDelay = time.Second
			timer := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
			out, err := cmd.CombinedOutput()
			timer.Stop()
			if err != nil {
				packages.log, packages.err = string(out), err
				return
			}
		}
	})
	if packages.err != nil {
		lines := strings.Split(strings.TrimSpace(packages.log), "\n")
		t.Fatalf("make packages: %v\n%s", packages.err, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	return packages.dir
}

// deb and rpm are the paths of the packages of a version.
func deb(t *testing.T, version string) string { return only(t, "vhostkit_"+version+"_*.deb") }
func rpm(t *testing.T, version string) string { return only(t, "vhostkit-"+version+"-1.*.rpm") }

func only(t *testing.T, pattern string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(build(t), pattern))
	if err != nil || len(list) != 1 {
		t.Fatalf("make packages made %q of %s (%v)", list, pattern, err)
	}
	return list[0]
}
