package guest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// busybox must be there: the guests need it.
func unpackCpio(t *testing.T, archive []byte) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("busybox", "cpio", "-i", "-d", "-m")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("busybox cpio: %v\n%s", err, out)
	}
	return dir
}

func TestCpioIsReadByAnotherProgram(t *testing.T) {
	var buf bytes.Buffer
	w := &cpioWriter{w: &buf}
	contents := map[string]string{"a": "", "dir/b": "1", "dir/bb": "12", "dir/bbb": "123", "dir/bbbb": "1234", "dir/long": strings.Repeat("x", 100000)}
	w.add(directory("dir"))
	for name, data := range contents {
		w.add(entry{name: name, mode: cpioRegular | 0o640, data: []byte(data)})
	}
	w.add(entry{name: "dir/link", mode: cpioSymlink | 0o777, data: []byte("bbb")})
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	if buf.Len()%4 != 0 {
		t.Errorf("length %d is no multiple of 4", buf.Len())
	}
	dir := unpackCpio(t, buf.Bytes())
	for name, want := range contents {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v; want %d bytes", name, len(got), err, len(want))
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "dir/link")); err != nil || to != "bbb" {
		t.Errorf("link = %q, %v", to, err)
	}
}

type failingWriter struct{ after int }

var errFull = errors.New("full")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestCpioReportsAWriteError(t *testing.T) {
	for after := range 300 {
		w := &cpioWriter{w: &failingWriter{after: after}}
		w.add(entry{name: "file", mode: cpioRegular | 0o644, data: make([]byte, 100)})
		if err := w.close(); !errors.Is(err, errFull) {
			t.Fatalf("failing after %d bytes: %v", after, err)
		}
	}
}
