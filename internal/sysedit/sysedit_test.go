package sysedit

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes a root with files and returns its store.
func tree(t *testing.T, files map[string]string) Store {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		full := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	return Store{Root: root}
}

// snapshot reads the root's files, without the store's own.
func snapshot(t *testing.T, s Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(s.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(s.Root, path)
		if strings.HasPrefix(name, DefaultState[1:]) {
			return nil
		}
		data, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		all["/"+name] = fmt.Sprintf("%v %s", info.Mode(), data)
		return errors.Join(err, statErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func mustPlan(t *testing.T, s Store, files ...File) *Plan {
	t.Helper()
	p, err := s.Plan("test", files...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var before = map[string]string{"etc/a": "one\ntwo\nthree\n", "etc/gone": "bye\n", "etc/mode": "x"}

func edits() []File {
	return []File{
		{Path: "/etc/a", Content: []byte("one\n2\nthree\n"), UID: -1, GID: -1, Mode: 0o600},
		{Path: "/etc/gone", Remove: true},
		{Path: "/etc/mode", Content: []byte("x"), UID: -1, GID: -1, Mode: 0o755, ForceMode: true},
		{Path: "/etc/new/b", Content: []byte("new\n"), UID: -1, GID: -1, Mode: 0o600},
	}
}

func TestApplyAndUndo(t *testing.T) {
	s := tree(t, before)
	was := snapshot(t, s)
	p := mustPlan(t, s, edits()...)
	for _, want := range []string{"-two\n+2\n", "--- a/etc/a\n+++ b/etc/a\n", "0640", "0755", "+++ b/etc/new/b", "file /etc/gone is removed"} {
		if !strings.Contains(p.Diff(), want) {
			t.Errorf("diff lacks %q:\n%s", want, p.Diff())
		}
	}
	if d := p.Diff("/etc/a"); strings.Contains(d, "etc/a") || !strings.Contains(d, "/etc/gone") {
		t.Errorf("diff without a file:\n%s", d)
	}
	if err := p.Apply(); err != nil {
		t.Fatal(err)
	}
	is := snapshot(t, s)
	want := map[string]string{"/etc/a": "-rw-r----- one\n2\nthree\n", "/etc/mode": "-rwxr-xr-x x", "/etc/new/b": "-rw------- new\n"}
	if !maps.Equal(is, want) {
		t.Fatalf("after Apply: %q, want %q", is, want)
	}
	if again := mustPlan(t, s, edits()...); !again.Empty() || again.Diff() != "" {
		t.Fatalf("a second plan is not empty: %s", again.Diff())
	}
	// A later edit under the same name does not replace the originals.
	if err := mustPlan(t, s, File{Path: "/etc/a", Content: []byte("other")}).Apply(); err != nil {
		t.Fatal(err)
	}
	undo, err := s.Undo("test", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := undo.Apply(); err != nil {
		t.Fatal(err)
	}
	if is := snapshot(t, s); !maps.Equal(is, was) {
		t.Fatalf("after undo: %q, want %q", is, was)
	}
	if _, err := s.Undo("test", false); !errors.Is(err, ErrNothing) {
		t.Fatalf("undo twice: %v", err)
	}
}

func TestUndoRefusesChangedFiles(t *testing.T) {
	s := tree(t, before)
	if err := mustPlan(t, s, edits()...).Apply(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Root, "etc/a"), []byte("by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Undo("test", false); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "/etc/a") {
		t.Fatalf("undo of a changed file: %v", err)
	}
	undo, err := s.Undo("test", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := undo.Apply(); err != nil {
		t.Fatal(err)
	}
	if got := snapshot(t, s)["/etc/a"]; got != "-rw-r----- one\ntwo\nthree\n" {
		t.Fatalf("forced undo left %q", got)
	}
}

func TestApplyRefusesWhatChangedSincePlan(t *testing.T) {
	s := tree(t, before)
	p := mustPlan(t, s, edits()...)
	if err := os.WriteFile(filepath.Join(s.Root, "etc/a"), []byte("meanwhile"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(); !errors.Is(err, ErrChanged) {
		t.Fatalf("Apply: %v", err)
	}
	if ok, _ := s.Applied("test"); ok {
		t.Fatal("a refused plan was remembered")
	}
}

// TestFailureRollsBack makes the last file impossible to write.
func TestFailureRollsBack(t *testing.T) {
	s := tree(t, before)
	p := mustPlan(t, s, append(edits(), File{Path: "/etc/late/x", Content: []byte("x"), UID: -1, GID: -1})...)
	if err := os.WriteFile(filepath.Join(s.Root, "etc/late"), []byte("a file where a directory must be"), 0o600); err != nil {
		t.Fatal(err)
	}
	was := snapshot(t, s)
	if err := p.Apply(); err == nil || !strings.Contains(err.Error(), "/etc/late/x") {
		t.Fatalf("Apply: %v", err)
	}
	if is := snapshot(t, s); !maps.Equal(is, was) {
		t.Fatalf("after a failure: %q, want %q", is, was)
	}
	if ok, err := s.Applied("test"); ok || err != nil {
		t.Fatalf("something is left to undo: %v %v", ok, err)
	}
}

// TestCrashAtEachStep stops between all steps: each file is the old or the new one, and undo gives the system back.
func TestCrashAtEachStep(t *testing.T) {
	crash := errors.New("power lost")
	for stop := 0; ; stop++ {
		s := tree(t, before)
		was := snapshot(t, s)
		count := 0
		s.Step = func(string) error {
			if count++; count > stop {
				return crash
			}
			return nil
		}
		err := mustPlan(t, s, edits()...).Apply()
		s.Step = nil
		if err == nil {
			if stop < 20 {
				t.Fatalf("only %d steps", stop)
			}
			return
		}
		if !errors.Is(err, crash) {
			t.Fatalf("step %d: %v", stop, err)
		}
		after := map[string]string{"/etc/a": "-rw-r----- one\n2\nthree\n", "/etc/mode": "-rwxr-xr-x x", "/etc/new/b": "-rw------- new\n"}
		for path, is := range snapshot(t, s) {
			if strings.Contains(path, ".vhostkit-") {
				os.Remove(filepath.Join(s.Root, path)) // a temporary file of a crashed process
				continue
			}
			if is != was[path] && is != after[path] {
				t.Fatalf("step %d: %s is neither old nor new: %q", stop, path, is)
			}
		}
		undo, err := s.Undo("test", false)
		if errors.Is(err, ErrNothing) {
			err = nil
		} else if err == nil {
			err = undo.Apply()
		}
		if err != nil {
			t.Fatalf("undo after a crash at step %d: %v", stop, err)
		}
		if is := snapshot(t, s); !maps.Equal(is, was) {
			t.Fatalf("step %d: after undo: %q, want %q", stop, is, was)
		}
	}
}

func TestSymbolicLinks(t *testing.T) {
	s := tree(t, map[string]string{"usr/etc/real": "old\n"})
	link := filepath.Join(s.Root, "link")
	if err := os.Symlink("usr/etc/real", link); err != nil {
		t.Fatal(err)
	}
	if err := mustPlan(t, s, File{Path: "/link", Content: []byte("new\n")}).Apply(); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(link); err != nil || target != "usr/etc/real" {
		t.Fatalf("the link was replaced: %q %v", target, err)
	}
	if got := snapshot(t, s)["/usr/etc/real"]; !strings.HasSuffix(got, "new\n") {
		t.Fatalf("target holds %q", got)
	}
	for target, want := range map[string]string{"/etc/passwd": "leads out", "nowhere": "link to nothing"} {
		path := filepath.Join(s.Root, "bad"+filepath.Base(target))
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Plan("test", File{Path: "/bad" + filepath.Base(target)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("link to %s: %v, want %q", target, err, want)
		}
	}
}

func TestBusy(t *testing.T) {
	s := tree(t, before)
	unlock, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := mustPlan(t, s, edits()...).Apply(); !errors.Is(err, ErrBusy) {
		t.Fatalf("Apply beside another: %v", err)
	}
}

func TestBadPlans(t *testing.T) {
	s := tree(t, before)
	for name, f := range map[string][]File{
		"relative": {{Path: "etc/a"}}, "twice": {{Path: "/etc/a"}, {Path: "/etc/./a"}}, "not a regular file": {{Path: "/etc"}},
	} {
		if _, err := s.Plan("test", f...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := s.Plan("../x"); err == nil {
		t.Error("a name that is a path was accepted")
	}
}

func TestDiffOfBinaries(t *testing.T) {
	s := tree(t, nil)
	p := mustPlan(t, s, File{Path: "/usr/bin/x", Content: []byte("\x7fELF\x00"), Mode: 0o755, UID: -1, GID: -1})
	if d := p.Diff(); !strings.Contains(d, "binary file /usr/bin/x: 0 → 5 bytes") || strings.Contains(d, "\x7f") {
		t.Fatalf("diff: %q", d)
	}
}
