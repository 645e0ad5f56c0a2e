package guestmem

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBirth: a region's file is the same to a front-end that connects again, also when a balloon has punched holes into it, and differs from
// one that is made later.
func TestBirth(t *testing.T) {
	for _, k := range []struct {
		name  string
		flags int
	}{{"memfd", 0}, {"hugetlb", unix.MFD_HUGETLB | unix.MFD_HUGE_2MB}} {
		t.Run(k.name, func(t *testing.T) {
			file := func() int {
				fd, err := unix.MemfdCreate("birth", unix.MFD_CLOEXEC|k.flags)
				if err == nil {
					err = unix.Ftruncate(fd, 4<<20)
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Close(fd) })
				return fd
			}
			first := file()
			before := birth(first)
			time.Sleep(20 * time.Millisecond) // the kernel's coarse clock
			later := birth(file())
			const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
			if err := unix.Fallocate(first, punch, 0, 2<<20); err != nil {
				t.Fatal(err)
			}
			if after := birth(first); before == 0 || after != before {
				t.Errorf("the birth is %d, and %d after punching a hole", before, after)
			}
			if later == before {
				t.Error("a file made later has the same birth")
			}
		})
	}
}
