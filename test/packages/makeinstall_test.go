package packages

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMakeInstall: DESTDIR and PREFIX are respected everywhere, also in the units, whatever the umask is; uninstall takes all of it away.
func TestMakeInstall(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "dest")
	run := func(target string) {
		t.Helper()
		command(t, 5*time.Minute, "env", "GOCACHE="+goEnv(t, "GOCACHE"), "GOMODCACHE="+goEnv(t, "GOMODCACHE"), "PATH="+os.Getenv("PATH"),
			"sh", "-c", `umask 077; exec make -C ../.. --no-print-directory "$0" "DESTDIR=$1" PREFIX=/usr/local`, target, dest)
	}
	run("install")
	found := 0
	for path, mode := range contents {
		local, ok := strings.CutPrefix(path, "/usr/")
		if !ok {
			continue
		}
		found++
		info, err := os.Stat(filepath.Join(dest, "usr/local", local))
		if err != nil {
			t.Error(err)
		} else if info.Mode().String() != mode {
			t.Errorf("/usr/local/%s: %v, want %s", local, info.Mode(), mode)
		}
	}
	if found < 10 {
		t.Fatalf("only %d files were looked for", found)
	}
	units, err := filepath.Glob(filepath.Join(dest, "usr/local/lib/systemd/system/*.service"))
	if err != nil || len(units) != 2 {
		t.Fatalf("units %q %v", units, err)
	}
	for _, unit := range units {
		if text := read(t, unit, ""); !strings.Contains(text, "ExecStart=/usr/local/bin/") || strings.Contains(text, "/usr/bin/") {
			t.Errorf("%s does not start what was installed:\n%s", unit, text)
		}
	}
	run("uninstall")
	err = filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("uninstall leaves %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
