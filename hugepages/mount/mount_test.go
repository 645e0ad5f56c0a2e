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
