package mount

import (
	"testing"

	"vhostkit/hugepages/bytesize"
)

func TestParse(t *testing.T) {
	table := Parse(`sysfs /sys sysfs rw 0 0
hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0
nodev /mnt/my\040huge hugetlbfs rw,mode=1770,pagesize=1024M 0 0
x /mnt/old hugetlbfs rw 0 0
x /mnt/covered hugetlbfs rw,pagesize=1G 0 0
tmpfs /mnt/covered tmpfs rw 0 0
broken
`, 2*bytesize.MiB)
	if len(table.Huge) != 3 || len(table.Of(bytesize.GiB)) != 1 || table.Of(bytesize.GiB)[0].Path != "/mnt/my huge" || len(table.Of(2*bytesize.MiB)) != 2 {
		t.Fatalf("%+v", table)
	}
	if m, ok := table.At("/mnt/my huge/"); !ok || m.Size != bytesize.GiB {
		t.Fatalf("%+v", m)
	}
	if table.Other("/mnt/covered") != "tmpfs" || table.Other("/dev/hugepages") != "" {
		t.Fatalf("%+v", table)
	}
}

// TestNamesOfOthers: what is no blank to the kernel is none here, so that nobody's directory passes for a hugetlbfs.
func TestNamesOfOthers(t *testing.T) {
	for _, space := range []string{"\u00a0", "\u0085", "\u2003", "\r", "\v", "\f"} {
		table := Parse("fuse /home/u/a"+space+"hugetlbfs"+space+"pagesize=1G fuse.x rw 0 0\n", 2*bytesize.MiB)
		if len(table.Huge) != 0 {
			t.Errorf("%q: %+v", space, table.Huge)
		}
	}
	if table := Parse(`none /mnt/huge\0431 hugetlbfs rw,pagesize=2M 0 0`, 0); len(table.Huge) != 1 || table.Huge[0].Path != "/mnt/huge#1" {
		t.Errorf("%+v", table)
	}
}
