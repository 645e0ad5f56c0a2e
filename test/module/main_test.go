package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run runs a command in a directory and gives what it prints.
func run(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod -tags=libvirt_dlopen", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// TestSomebodyElseHostsIt: under the path of whoever hosts it all packages are found, and another module uses the control client.
func TestSomebodyElseHostsIt(t *testing.T) {
	const path = "git.example.com/nfv/vhostkit"
	dir := t.TempDir()
	tree, other := filepath.Join(dir, "tree"), filepath.Join(dir, "other")
	run(t, "../..", "sh", "-c", `mkdir -p "$0" && git ls-files -z | xargs -0 cp --parents -t "$0"`, tree)
	run(t, tree, "git", "init", "-q")
	run(t, tree, "git", "add", "-A")
	if changed, err := rename(tree, path); err != nil || changed < 100 {
		t.Fatalf("%d files changed: %v", changed, err)
	}
	if left := run(t, tree, "sh", "-c", `grep -rnE '"vhostkit/[a-z]' --include=*.go . || true`); left != "" {
		t.Errorf("the old path is left in\n%s", left)
	}
	for p := range strings.FieldsSeq(run(t, tree, "go", "list", "-deps", "./...")) {
		if strings.HasPrefix(p, "vhostkit") {
			t.Errorf("%s is still needed", p)
		}
	}
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"go.mod":  "module other.example/x\n\ngo 1.26\n\nrequire " + path + " v0.0.0\n\nreplace " + path + " => ../tree\n",
		"main.go": "package main\n\nimport \"" + path + "/switchd/control\"\n\nfunc main() { _ = control.NewClient(\"\") }\n",
	} {
		if err := os.WriteFile(filepath.Join(other, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, other, "go", "build", "-o", filepath.Join(dir, "x"), ".")
}

func TestPathsThatNobodyCanImport(t *testing.T) {
	for _, path := range []string{"", "vhostkit", "local/vhostkit", "example.com", "example.com/", "https://example.com/x", "example.com/a b"} {
		if _, err := rename(t.TempDir(), path); err == nil || !strings.Contains(err.Error(), "import") {
			t.Errorf("%q: %v", path, err)
		}
	}
}
