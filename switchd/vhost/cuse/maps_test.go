package cuse

import (
	"os"
	"strings"
	"testing"
)

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]mapping{
		"7f0000000000-7f0040000000 rw-s 00200000 00:0f 12345                      /dev/hugepages/my guest (deleted)": {
			Start: 0x7f0000000000, End: 0x7f0040000000, Write: true, Shared: true, Offset: 0x200000, Minor: 15, Inode: 12345,
			Path: "/dev/hugepages/my guest (deleted)"},
		"00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon": {
			Start: 0x400000, End: 0x452000, Major: 8, Minor: 2, Inode: 173521, Path: "/usr/bin/dbus-daemon"},
		"7ffe0000-7fff0000 rw-p 00000000 00:00 0 ": {Start: 0x7ffe0000, End: 0x7fff0000, Write: true},
		"7ffe0000-7fff0000 rw-p 00000000 00:00 0":  {Start: 0x7ffe0000, End: 0x7fff0000, Write: true},
		"ffffffffff600000-ffffffffff601000 --xp 00000000 103:ff 0                  [vsyscall]": {
			Start: 0xffffffffff600000, End: 0xffffffffff601000, Major: 0x103, Minor: 0xff, Path: "[vsyscall]"},
	} {
		if m, err := parseMapping(line); err != nil || m != want {
			t.Errorf("%q: %+v, %v; want %+v", line, m, err, want)
		}
	}
	for _, bad := range []string{
		"", "x", "1-2 rw-s 0 0:0", "1-2 rws 0 0:0 1", "2-1 rw-s 0 0:0 1 x", "1-1 rw-s 0 0:0 1 x", "1 rw-s 0 0:0 1 x", "g-h rw-s 0 0:0 1 x",
		"1-2 rw-s g 0:0 1 x", "1-2 rw-s 0 00 1 x", "1-2 rw-s 0 0:0 -1 x", "1-10000000000000000 rw-s 0 0:0 1 x",
	} {
		if m, err := parseMapping(bad); err == nil {
			t.Errorf("%q is %+v", bad, m)
		}
	}
}

func TestParseMaps(t *testing.T) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if all, err := parseMaps(f); err != nil || len(all) < 5 {
		t.Errorf("%d mappings of this process, %v", len(all), err)
	}
	for _, bad := range []string{
		"2-4 rw-s 0 0:0 1 x\n3-5 rw-s 0 0:0 1 x\n", "2-4 rw-s 0 0:0 1 x\n\n", strings.Repeat("x", 100000),
	} {
		if all, err := parseMaps(strings.NewReader(bad)); err == nil {
			t.Errorf("%.40q: %+v", bad, all)
		}
	}
}

func TestJoin(t *testing.T) {
	all, err := parseMaps(strings.NewReader(`1000-2000 rw-s 5000 0:1 7 a
2000-3000 rw-s 6000 0:1 7 a
3000-4000 rw-s 9000 0:1 7 a
4000-5000 rw-p a000 0:1 7 a
5000-6000 rw-p b000 0:1 8 a
7000-8000 rw-p c000 0:1 8 a
8000-9000 rw-p 0 0:0 0
9000-a000 rw-p 1000 0:0 0
`))
	if err != nil {
		t.Fatal(err)
	}
	if joined := join(all); len(joined) != 7 || joined[0].End != 0x3000 || joined[0].Offset != 0x5000 {
		t.Errorf("%+v", joined)
	}
}
