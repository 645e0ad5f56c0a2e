package doctor

import (
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"

	"vhostkit/internal/mntent"
)

// pool is the hugepages of one size, of a node or of the host. Numbers are pages.
type pool struct {
	KiB                                         uint64 // size of a page
	Total, Free, Reserved, Surplus, Overcommits uint64
}

// available is what a new user can get: free pages that nobody reserved.
func (p pool) available() uint64 { return p.Free - min(p.Free, p.Reserved) }

func sizeName(kib uint64) string {
	switch {
	case kib >= 1<<20 && kib%(1<<20) == 0:
		return fmt.Sprintf("%d GiB", kib>>20)
	case kib >= 1<<10:
		return fmt.Sprintf("%d MiB", kib>>10)
	}
	return fmt.Sprintf("%d KiB", kib)
}

const hostPools = "/sys/kernel/mm/hugepages"

// pools are those below a directory of sysfs, smallest pages first.
func pools(f Files, dir string) ([]pool, error) {
	names, err := f.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []pool
	for _, name := range names {
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(name, "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		read := func(file string) uint64 {
			n, _ := strconv.ParseUint(text(f, path.Join(dir, name, file)), 10, 64)
			return n
		}
		list = append(list, pool{kib, read("nr_hugepages"), read("free_hugepages"), read("resv_hugepages"), read("surplus_hugepages"),
			read("nr_overcommit_hugepages")})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].KiB < list[j].KiB })
	return list, nil
}

// nodePools are the pools of each NUMA node. A node has no count of reserved pages: they are the host's.
func nodePools(f Files) map[int][]pool {
	const dir = "/sys/devices/system/node"
	names, _ := f.ReadDir(dir)
	nodes := map[int][]pool{}
	for _, name := range names {
		id, err := strconv.Atoi(strings.TrimPrefix(name, "node"))
		if err != nil || !strings.HasPrefix(name, "node") {
			continue
		}
		if list, err := pools(f, path.Join(dir, name, "hugepages")); err == nil {
			nodes[id] = list
		}
	}
	return nodes
}

// defaultPage is the default size of hugepages in KiB, 0 where the kernel has none.
func defaultPage(f Files) uint64 {
	for _, line := range strings.Split(text(f, "/proc/meminfo"), "\n") {
		if rest, ok := strings.CutPrefix(line, "Hugepagesize:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n
		}
	}
	return 0
}

// mountTable is what is mounted where doctor runs.
const mountTable = "/proc/self/mounts"

// hugeMount is a mounted hugetlbfs.
type hugeMount struct {
	Point string
	KiB   uint64 // its page size
}

func hugeMounts(f Files) ([]hugeMount, error) {
	table, err := f.ReadFile(mountTable)
	if err != nil {
		return nil, err
	}
	var list []hugeMount
	for _, m := range mntent.Mounts(string(table)) {
		if m.Type != "hugetlbfs" {
			continue
		}
		h := hugeMount{m.Path, defaultPage(f)}
		if size := m.Option("pagesize"); size != "" {
			h.KiB = kibibytes(size)
		}
		list = append(list, h)
	}
	return list, nil
}

// kibibytes reads a size as the kernel and its command line write it: 2M, 1G, 2048K, 2097152.
func kibibytes(s string) uint64 {
	unit, number := uint64(0), strings.TrimRight(s, "kKmMgG")
	switch strings.ToUpper(strings.TrimPrefix(s, number)) {
	case "K":
		unit = 1
	case "M":
		unit = 1 << 10
	case "G":
		unit = 1 << 20
	}
	n, _ := strconv.ParseUint(number, 10, 64)
	if unit == 0 {
		return n >> 10
	}
	return n * unit
}
