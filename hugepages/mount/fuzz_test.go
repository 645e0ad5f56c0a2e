package mount

import (
	"path/filepath"
	"strings"
	"testing"

	"vhostkit/hugepages/bytesize"
	"vhostkit/internal/mntent"
)

// FuzzParse: whatever others have mounted, with names of their own choice, a hugetlbfs that is mounted last is seen where it is, and no
// path is two things at once.
func FuzzParse(f *testing.F) {
	f.Add("hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n", "/mnt/my huge")
	f.Add("fuse /home/u/a\u00a0hugetlbfs\u00a0pagesize=1G fuse rw 0 0\n", "/home/u/a")
	f.Add("x /a\rb hugetlbfs rw,pagesize=1G 0 0\nbroken\n\n  \n", "/")
	f.Fuzz(func(t *testing.T, text, path string) {
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		path = filepath.Clean("/" + path)
		table := Parse(text+"none "+mntent.Encode(path)+" hugetlbfs rw,relatime,pagesize=1024M 0 0\n", 2*bytesize.MiB)
		if m, ok := table.At(path); !ok || m.Size != bytesize.GiB || table.Other(path) != "" {
			t.Fatalf("%q is not seen: %+v", path, table)
		}
		seen := map[string]bool{}
		for _, m := range table.Huge {
			if seen[m.Path] || table.other[m.Path] != "" {
				t.Fatalf("%q is there twice: %+v", m.Path, table)
			}
			seen[m.Path] = true
			if m.Size == 0 {
				t.Fatalf("%q has pages of no size", m.Path)
			}
		}
	})
}
