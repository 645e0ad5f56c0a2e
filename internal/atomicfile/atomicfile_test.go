package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// names lists a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func wants(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	data, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err := errors.Join(err, statErr); err != nil {
		t.Fatal(err)
	}
	if string(data) != content || info.Mode() != mode {
		t.Fatalf("%s has mode %v and %q, want %v and %q", path, info.Mode(), data, mode, content)
	}
}

func TestWriteReplacesContentAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, c := range []struct {
		content string
		mode    fs.FileMode
	}{{"new", 0o600}, {"other", 0o666}, {"", 0o640}} {
		if err := Write(path, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		wants(t, path, c.content, c.mode)
	}
	if list := names(t, filepath.Dir(path)); !slices.Equal(list, []string{"f"}) {
		t.Fatalf("left behind: %v", list)
	}
}

// TestFailureLeavesTheOldFile fails at filling, and at the rename: a directory stands where the file should go.
func TestFailureLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Write(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	if err := Replace(path, func(*os.File) error { return full }, nil); !errors.Is(err, full) {
		t.Fatalf("Replace: %v", err)
	}
	wants(t, path, "old", 0o644)
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "d"), []byte("x"), 0o644); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	if err := Write(filepath.Join(dir, "missing", "f"), nil, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without a directory: %v", err)
	}
	if list := names(t, dir); !slices.Equal(list, []string{"d", "f"}) {
		t.Fatalf("left behind: %v", list)
	}
}

// TestStopAtEachStep sees the old content or the new one, whichever step is the last.
func TestStopAtEachStep(t *testing.T) {
	crash := errors.New("power lost")
	for stop, want := range []string{"old", "old", "new", "new"} {
		path := filepath.Join(t.TempDir(), "f")
		if err := Write(path, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
		steps := 0
		err := Replace(path, func(f *os.File) error { _, err := f.WriteString("new"); return err }, func(string) error {
			if steps++; steps > stop {
				return crash
			}
			return nil
		})
		if stop < 3 && !errors.Is(err, crash) || stop == 3 && err != nil {
			t.Fatalf("stop at step %d: %v", stop, err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != want {
			t.Fatalf("stop at step %d: %q %v, want %q", stop, data, err, want)
		}
	}
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := errors.Join(Write(path, nil, 0o644), Remove(path), Remove(path), Remove(filepath.Join(path, "no", "directory"))); err != nil {
		t.Fatal(err)
	}
	if list := names(t, filepath.Dir(path)); len(list) != 0 {
		t.Fatalf("left behind: %v", list)
	}
}
