package fstab

import (
	"errors"
	"strings"
	"testing"

	"vhostkit/hugepages/bytesize"
)

func TestMount(t *testing.T) {
	const line = "hugetlbfs /mnt/huge hugetlbfs pagesize=2M 0 0"
	for in, want := range map[string]string{
		"":                 line + "\n",
		"# nothing\n":      "# nothing\n" + line + "\n",
		"UUID=1 / ext4 ro": "UUID=1 / ext4 ro\n" + line + "\n",
		"/dev/a / x\r\n":   "/dev/a / x\r\n" + line + "\r\n",
		line:               "",
		"x /mnt/huge/ hugetlbfs nosuid,pagesize=2048K 0 0\n": "",
		// The line in the guide to DPDK's vhost sample, with the wrong size.
		"hugetlbfs /mnt/huge hugetlbfs defaults,pagesize=1G 0 0\n": "hugetlbfs /mnt/huge hugetlbfs defaults,pagesize=2M 0 0\n",
		"a /mnt/huge hugetlbfs mode=1770\t0 0 # x\n":               "a /mnt/huge hugetlbfs mode=1770,pagesize=2M\t0 0 # x\n",
		"a /mnt/huge hugetlbfs":                                    "a /mnt/huge hugetlbfs pagesize=2M",
		// Of two sizes the kernel takes the last.
		"a /mnt/huge hugetlbfs pagesize=2M,pagesize=1G\n": "a /mnt/huge hugetlbfs pagesize=2M,pagesize=2M\n",
		`a /mnt/h\165ge hugetlbfs pagesize=2M` + "\n":     "",
		"#" + line + "\n": "#" + line + "\n" + line + "\n",
	} {
		table, err := Parse([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		got, err := table.Mount("/mnt/huge", 2*bytesize.MiB)
		if err != nil || string(got) != want {
			t.Errorf("%q\n got %q %v\nwant %q", in, got, err, want)
		}
	}
	for in, want := range map[string]error{"/dev/a /mnt/huge ext4 ro 0 0\n": ErrConflict, "a b\n": ErrUnparsable,
		"a /mnt/huge hugetlbfs noauto,pagesize=2M 0 0\n": ErrNotMounted, "a b c \x00\n": ErrUnparsable} {
		table, err := Parse([]byte(in))
		if err == nil {
			_, err = table.Mount("/mnt/huge", 2*bytesize.MiB)
		}
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

func TestSpaces(t *testing.T) {
	table, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := table.Mount("/mnt/my huge", bytesize.GiB)
	if err != nil || string(got) != `hugetlbfs /mnt/my\040huge hugetlbfs pagesize=1G 0 0`+"\n" {
		t.Fatalf("%q %v", got, err)
	}
	if table, err = Parse(got); err != nil {
		t.Fatal(err)
	}
	if size, ok := table.PageSize("/mnt/my huge"); !ok || size != bytesize.GiB {
		t.Fatalf("%v %v", size, ok)
	}
}

// FuzzMount: the file is refused, or mounts afterwards what is wanted, and a second change is none.
func FuzzMount(f *testing.F) {
	f.Add([]byte("UUID=1 / ext4 ro 0 1\r\nnone /mnt/huge hugetlbfs pagesize=1G,mode=1770 0 0"), "/mnt/huge")
	f.Add([]byte("a /mnt/my\\040huge hugetlbfs\n"), "/mnt/my huge")
	f.Fuzz(func(t *testing.T, data []byte, path string) {
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "\x00\r") {
			return
		}
		table, err := Parse(data)
		if err != nil {
			return
		}
		after, err := table.Mount(path, 2*bytesize.MiB)
		if err != nil || after == nil {
			return
		}
		again, err := Parse(after)
		if err != nil {
			t.Fatalf("%q → %q: %v", data, after, err)
		}
		if size, ok := again.PageSize(path); !ok || size != 2*bytesize.MiB {
			t.Fatalf("%q → %q: %v %v", data, after, size, ok)
		}
		if more, err := again.Mount(path, 2*bytesize.MiB); err != nil || more != nil {
			t.Fatalf("a second time: %q %v", more, err)
		}
	})
}
