package users

import (
	"reflect"
	"testing"

	"vhostkit/hugepages/bytesize"
)

func TestParseSmaps(t *testing.T) {
	got := parseSmaps(`55d0-55d1 r--p 00000000 00:19 12 /usr/bin/qemu
Size:                  4 kB
KernelPageSize:        4 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
VmFlags: rd mr
7f00-7f40 rw-s 00000000 00:0f 123   /dev/hugepages/libvirt/ram a
KernelPageSize:  1048576 kB
Shared_Hugetlb:  1048576 kB
Private_Hugetlb: 1048576 kB
7f40-7f50 rw-p 00000000 00:00 0
KernelPageSize:     2048 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:    4096 kB
7f60-7f70 rw-s 40000000 00:0f 123   /dev/hugepages/libvirt/ram a
KernelPageSize:  1048576 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb: 1048576 kB
`)
	want := []User{{File: "/dev/hugepages/libvirt/ram a", Size: bytesize.GiB, Pages: 3}, {File: "anonymous", Size: 2 * bytesize.MiB, Pages: 2}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// FuzzSmaps: file names are others' choice.
func FuzzSmaps(f *testing.F) {
	f.Add("7f00-7f40 rw-s 0 0 1 /a\nKernelPageSize: 2048 kB\nShared_Hugetlb: 2048 kB\nPrivate_Hugetlb: 0 kB\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, u := range parseSmaps(text) {
			if u.Size == 0 {
				t.Fatalf("%+v", u)
			}
		}
	})
}
