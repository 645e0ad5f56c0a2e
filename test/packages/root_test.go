package packages

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/test/guest"
)

// inside is what the clean root has besides the essential packages: what the package is used with, and what looks at it.
const inside = "systemd,systemd-sysv,udev,dbus,bash-completion,groff-base,mount"

// cacheFor says how long a clean root is used before it is made anew.
const cacheFor = 14 * 24 * time.Hour

// needRoot ends the test where there is no apt, which packages of this kind are not for, or where a tool is missing.
func needRoot(t *testing.T, tools ...string) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skipf("a .deb is tested where its packages come from: %v", err)
	}
	missing := error(nil)
	if os.Geteuid() != 0 {
		missing = errors.New("making a root needs the right to mount and to chroot: run as root")
	}
	for _, tool := range append(tools, "debootstrap", "unshare", "chroot", "tar") {
		if _, err := exec.LookPath(tool); err != nil {
			missing = errors.Join(missing, err)
		}
	}
	if missing == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%v (test/setup/install.sh test)", missing)
	}
	t.Skipf("%v (test/setup/install.sh test)", missing)
}

// source is where this machine's own apt gets its release from.
type source struct{ suite, mirror string }

// aptSource asks apt, which knows every notation of its files.
func aptSource(t *testing.T) source {
	t.Helper()
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	codename := ""
	for line := range strings.Lines(string(release)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			codename = strings.Trim(v, `"'`)
		}
	}
	out := command(t, time.Minute, "apt-get", "indextargets", "--format", "$(CREATED_BY) $(RELEASE) $(CODENAME) $(COMPONENT) $(REPO_URI)")
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 5 && f[0] == "Packages" && f[3] == "main" && (f[1] == codename || f[2] == codename) {
			return source{codename, f[4]}
		}
	}
	t.Fatalf("apt knows no source of %q: run apt-get update, or look at apt-get indextargets\n%s", codename, out)
	return source{}
}

// cleanRoot returns a directory with a new installation of this machine's distribution.
func cleanRoot(t *testing.T) string {
	t.Helper()
	archive := rootArchive(t)
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, 2*time.Minute, "tar", "--numeric-owner", "--xattrs", "-C", root, "-xf", archive)
	return root
}

// rootArchive returns the cached installation, and makes it first where it is missing, old or of something else.
func rootArchive(t *testing.T) string {
	t.Helper()
	cache, err := guest.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	s := aptSource(t)
	sum := sha256.Sum256([]byte(s.suite + s.mirror + inside))
	archive := filepath.Join(cache, fmt.Sprintf("root-%s-%x.tar", s.suite, sum[:4]))
	lock, err := os.OpenFile(archive+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(archive); err == nil && time.Since(info.ModTime()) < cacheFor {
		return archive
	}
	start := time.Now()
	root := filepath.Join(t.TempDir(), "new")
	command(t, 10*time.Minute, "debootstrap", "--variant=minbase", "--include="+inside, s.suite, root, s.mirror)
	for _, pattern := range []string{"var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "var/log/bootstrap.log"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Written beside and renamed: whoever sees the archive sees all of it.
	command(t, 2*time.Minute, "tar", "--numeric-owner", "--xattrs", "-C", root, "-cf", archive+".new", ".")
	if err := os.Rename(archive+".new", archive); err != nil {
		t.Fatal(err)
	}
	t.Logf("a clean root of %s was made in %v", s.suite, time.Since(start).Round(time.Second))
	return archive
}
