package guestmem

import (
	"os"

	"golang.org/x/sys/unix"
)

// residency is how to find out which pages of a mapped file are there, so that mapping them into our page tables makes no guest's memory
// grow: touching a hole of a shared file, even for reading, allocates it.
type residency uint8

const (
	unknown residency = iota // nothing may be touched on suspicion
	byPage                   // tmpfs, memfd: mincore(2) tells what the page cache has. Holes are not in it, nor is what was swapped out
	whole                    // hugetlbfs with every page allocated; mincore(2) knows only what we have mapped, lseek(2) knows no holes
)

// residencyOf looks at a file that has just been mapped.
func residencyOf(fd int, st *unix.Stat_t) residency {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil || st.Size <= 0 {
		return unknown
	}
	switch {
	case fs.Type == unix.HUGETLBFS_MAGIC && st.Blocks*512 >= st.Size: // st_blocks counts what is allocated (stat(2): units of 512 bytes)
		return whole
	case fs.Type == unix.TMPFS_MAGIC && mincoreIsTrue(fd, st.Size):
		return byPage
	}
	return unknown
}

// mincoreIsTrue finds out whether the kernel answers mincore(2) for this file. To whoever may not write the file by its mode, and is not its
// owner, it says that every page is there; also one that lies behind the file's end.
func mincoreIsTrue(fd int, size int64) bool {
	page := int64(os.Getpagesize())
	behind := (size + page - 1) &^ (page - 1)
	data, err := unix.Mmap(fd, behind, int(page), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Munmap(data) }()
	var there [1]byte
	return mincore(data, there[:]) == nil && there[0]&1 == 0
}

// stretches calls f with each stretch of [from, to) that is resident, from front to back, until f returns false. Both are offsets in the
// mapping, at page boundaries; at most maxScan bytes lie between them.
func (mp *mapping) stretches(from, to int, f func(from, to int) bool) {
	switch mp.residency {
	case whole:
		f(from, to)
	case byPage:
		var scan [maxScan >> minPageShift]byte
		page := os.Getpagesize()
		there := scan[:(to-from)/page]
		if mincore(mp.data[from:to], there) != nil {
			return
		}
		for i := 0; i < len(there); {
			first := i
			for i < len(there) && there[i]&1 == 1 {
				i++
			}
			if i > first && !f(from+first*page, from+i*page) {
				return
			}
			for i < len(there) && there[i]&1 == 0 {
				i++
			}
		}
	}
}

const (
	minPageShift = 12      // no Linux has smaller pages
	maxScan      = 4 << 20 // bytes looked at in one system call
)
