package packages

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// noise is what a package manager and its tools write for themselves when any package comes or goes.
var noise = []string{
	"/var/lib/dpkg/", "/var/log/", "/var/cache/", "/var/lib/apt/", "/var/lib/systemd/", "/run/", "/tmp/", "/dev/", "/proc/", "/sys/", "/etc/ld.so.cache",
	"/root/.cache/", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock", "/etc/machine-id",
}

// snapshot describes every file below root: type, mode, owner, and what is in it.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		if slices.ContainsFunc(noise, func(n string) bool { return strings.HasPrefix(name+"/", n) || name == n }) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		what := fmt.Sprintf("%v %d:%d", info.Mode(), s.Uid, s.Gid)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			what += " → " + to
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
		all[name] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// differences lists what is new, gone or other.
func differences(before, after map[string]string) []string {
	var list []string
	for path, what := range after {
		switch was, ok := before[path]; {
		case !ok:
			list = append(list, "new: "+path+" "+what)
		case was != what:
			list = append(list, "changed: "+path+" "+was+", now "+what)
		}
	}
	for path, what := range before {
		if _, ok := after[path]; !ok {
			list = append(list, "gone: "+path+" "+what)
		}
	}
	slices.Sort(list)
	return list
}
