package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/tools/txtar"
)

// TestPlanted: each check finds what is planted for it in testdata/CHECK.txtar, at the lines that its comment names, and nothing else.
func TestPlanted(t *testing.T) {
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			archive, err := txtar.ParseFile(filepath.Join("testdata", c.name+".txtar"))
			if err != nil {
				t.Fatal(err)
			}
			root := fstest.MapFS{}
			for _, f := range archive.Files {
				root[f.Name] = &fstest.MapFile{Data: f.Data}
			}
			planted, err := load(root)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Split(strings.TrimSpace(string(archive.Comment)), "\n")
			if got := c.run(planted); !slices.Equal(got, want) {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func run(t *testing.T, dir string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

func TestCommits(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, "git", "init", "-q")
	for _, message := range []string{"old\n", "good: short\n\nbecause; seen.\n", strings.Repeat("x", 73) + "\n\nbecause.\n", "mute\n"} {
		run(t, dir, "git", "commit", "-q", "--allow-empty", "-m", message)
	}
	got, err := badCommits(dir, "HEAD~3")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || !strings.Contains(got[0], "73 characters") || !strings.Contains(got[1], "no body") {
		t.Errorf("found %q", got)
	}
	if _, err := badCommits(dir, "nowhere"); err == nil {
		t.Error("a base that is not there is no error")
	}
}

func TestTidy(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOFLAGS", "")
	write("go.mod", "module planted\n\ngo 1.24\n")
	write("a.go", "package planted\n")
	if got, err := untidyModule(dir); err != nil || len(got) != 0 {
		t.Errorf("a tidy module: %v, %v", got, err)
	}
	// A replacement needs nothing from outside.
	write("go.mod", "module planted\n\ngo 1.24\n\nrequire example.org/unused v1.0.0\n\nreplace example.org/unused => ./unused\n")
	if err := os.Mkdir(filepath.Join(dir, "unused"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("unused/go.mod", "module example.org/unused\n\ngo 1.24\n")
	if got, err := untidyModule(dir); err != nil || len(got) != 1 || !strings.Contains(got[0], "-require example.org/unused") {
		t.Errorf("an unused requirement: %v, %v", got, err)
	}
}
