package qemuwrap

import (
	"bufio"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pageSizes lists the sizes of hugepages that the kernel has pools for, in bytes, the default size first.
func pageSizes(system fs.FS) []uint64 {
	standard := uint64(0)
	if data, err := fs.ReadFile(system, "proc/meminfo"); err == nil {
		for _, line := range strings.Split(string(data), "\n") {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Hugepagesize:" {
				kib, _ := strconv.ParseUint(fields[1], 10, 64)
				standard = kib << 10
			}
		}
	}
	var sizes []uint64
	entries, _ := fs.ReadDir(system, "sys/kernel/mm/hugepages")
	for _, e := range entries {
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		if size := kib << 10; size == standard {
			sizes = append([]uint64{size}, sizes...)
		} else {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// freePages tells how many pages of a size are free and not promised to others, on a NUMA node, or on all of them (node -1).
func freePages(system fs.FS, size uint64, node int) uint64 {
	dir := path.Join("sys/kernel/mm/hugepages", fmt.Sprintf("hugepages-%dkB", size>>10))
	if node >= 0 {
		dir = path.Join(fmt.Sprintf("sys/devices/system/node/node%d/hugepages", node), path.Base(dir))
	}
	free := readNumber(system, path.Join(dir, "free_hugepages"))
	reserved := readNumber(system, path.Join(dir, "resv_hugepages")) // nodes have none of their own
	return free - min(free, reserved)
}

func readNumber(system fs.FS, name string) uint64 {
	data, err := fs.ReadFile(system, name)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n
}

// hugetlbfs is a mounted hugetlbfs.
type hugetlbfs struct {
	path string
	size uint64 // of its pages
}

// mounts lists the hugetlbfs mounts that this process sees.
func mounts(system fs.FS) []hugetlbfs {
	f, err := system.Open("proc/mounts")
	if err != nil {
		return nil
	}
	defer f.Close()
	var standard uint64
	if sizes := pageSizes(system); len(sizes) > 0 {
		standard = sizes[0]
	}
	var list []hugetlbfs
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[2] != "hugetlbfs" {
			continue
		}
		m := hugetlbfs{path: unescape(fields[1]), size: standard}
		for _, option := range strings.Split(fields[3], ",") {
			if v, ok := strings.CutPrefix(option, "pagesize="); ok {
				if n, err := parseSize(v, 1); err == nil {
					m.size = n
				}
			}
		}
		list = append(list, m)
	}
	return list
}

// unescape undoes the octal escapes of /proc/mounts (proc(5)).
func unescape(s string) string {
	for _, e := range [][2]string{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		s = strings.ReplaceAll(s, e[0], e[1])
	}
	return s
}

// writable tells whether this process may make files in a directory.
func writable(dir string) bool { return unix.Access(dir, unix.W_OK|unix.X_OK) == nil }
