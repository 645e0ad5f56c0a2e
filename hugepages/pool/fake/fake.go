// Package fake is a kernel's hugepage pools made of tables, for tests: with nodes of any size, pages in use, and the kernel's habit of
// giving fewer pages than it was asked for without an error.
package fake

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"vhostkit/hugepages/bytesize"
)

type key struct {
	node int
	size bytesize.Size
}

type pool struct{ count, used, limit uint64 }

// Kernel implements pool.Files.
type Kernel struct {
	Default bytesize.Size
	NoNodes bool              // a kernel without NUMA: use one node
	Texts   map[string]string // further files
	Writes  []string          // of counts, in order: "node0 2M 5"
	memory  []bytesize.Size
	pools   map[key]*pool
}

// New makes a kernel with a node of each amount of memory.
func New(nodes ...bytesize.Size) *Kernel {
	k := &Kernel{Default: 2 * bytesize.MiB, Texts: map[string]string{}, memory: nodes, pools: map[key]*pool{}}
	for i := range nodes {
		for _, size := range k.sizes() {
			k.pools[key{i, size}] = &pool{limit: 1 << 40}
		}
	}
	return k
}

func (k *Kernel) sizes() []bytesize.Size { return []bytesize.Size{bytesize.GiB, 2 * bytesize.MiB} }

// Use gives a pool pages, of which some are in use.
func (k *Kernel) Use(node int, size bytesize.Size, count, used uint64) {
	p := k.pools[key{node, size}]
	p.count, p.used = count, used
}

// Limit is how many pages a pool can get.
func (k *Kernel) Limit(node int, size bytesize.Size, count uint64) {
	k.pools[key{node, size}].limit = count
}

// Count is how many pages a pool has.
func (k *Kernel) Count(node int, size bytesize.Size) uint64 { return k.pools[key{node, size}].count }

// Reboot makes the pools what a command line gives them.
func (k *Kernel) Reboot(counts map[bytesize.Size]uint64, defaultSize bytesize.Size) {
	for key, p := range k.pools {
		n := uint64(len(k.memory))
		p.used, p.count = 0, counts[key.size]/n
		if uint64(key.node) < counts[key.size]%n {
			p.count++
		}
	}
	k.Default = defaultSize
}

func (k *Kernel) free(node int) bytesize.Size {
	free := k.memory[node]
	for _, size := range k.sizes() {
		free -= size * bytesize.Size(k.Count(node, size))
	}
	return free
}

// Read implements pool.Files.
func (k *Kernel) Read(path string) (string, error) {
	if text, ok := k.Texts[path]; ok {
		return text, nil
	}
	if path == "/proc/meminfo" {
		var all, free bytesize.Size
		for i, m := range k.memory {
			all, free = all+m, free+k.free(i)
		}
		return fmt.Sprintf("MemTotal: %d kB\nMemFree:  %d kB\nHugepagesize:  %d kB\n", all/1024, free/1024, k.Default/1024), nil
	}
	if rest, ok := strings.CutPrefix(path, "/sys/devices/system/node/node"); ok && !k.NoNodes {
		number, file, _ := strings.Cut(rest, "/")
		node, err := strconv.Atoi(number)
		if err != nil || node >= len(k.memory) {
			return "", fs.ErrNotExist
		}
		if file == "meminfo" {
			return fmt.Sprintf("Node %d MemTotal: %d kB\nNode %d MemFree: %d kB\n", node, k.memory[node]/1024, node, k.free(node)/1024), nil
		}
		return k.number(strings.TrimPrefix(file, "hugepages/"), node, node+1)
	}
	if file, ok := strings.CutPrefix(path, "/sys/kernel/mm/hugepages/"); ok {
		return k.number(file, 0, len(k.memory))
	}
	return "", fs.ErrNotExist
}

func (k *Kernel) number(file string, from, to int) (string, error) {
	var kib, sum uint64
	var name string
	if _, err := fmt.Sscanf(strings.Replace(file, "/", " ", 1), "hugepages-%dkB %s", &kib, &name); err != nil {
		return "", fs.ErrNotExist
	}
	for node := from; node < to; node++ {
		p, ok := k.pools[key{node, bytesize.Size(kib) * bytesize.KiB}]
		switch {
		case !ok, name == "resv_hugepages" && to-from < len(k.memory):
			return "", fs.ErrNotExist
		case name == "nr_hugepages":
			sum += p.count
		case name == "free_hugepages":
			sum += p.count - p.used
		}
	}
	return fmt.Sprintln(sum), nil
}

// Write implements pool.Files.
func (k *Kernel) Write(path, text string) error {
	if path == "/proc/sys/vm/compact_memory" {
		return nil
	}
	path = strings.Replace(path, "/sys/kernel/mm/", "/sys/devices/system/node/node0/", 1)
	var node int
	var kib uint64
	if _, err := fmt.Sscanf(path, "/sys/devices/system/node/node%d/hugepages/hugepages-%dkB/nr_hugepages", &node, &kib); err != nil {
		return fs.ErrNotExist
	}
	size := bytesize.Size(kib) * bytesize.KiB
	p := k.pools[key{node, size}]
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || p == nil {
		return fs.ErrInvalid
	}
	room := p.count + uint64(k.free(node)/size)
	p.count = max(p.used, min(n, p.limit, room))
	k.Writes = append(k.Writes, fmt.Sprintf("node%d %v %d", node, size, n))
	return nil
}

// List implements pool.Files.
func (k *Kernel) List(dir string) ([]string, error) {
	if dir == "/sys/devices/system/node" {
		if k.NoNodes {
			return nil, fs.ErrNotExist
		}
		names := []string{"online", "power"}
		for i := range k.memory {
			names = append(names, fmt.Sprintf("node%d", i))
		}
		return names, nil
	}
	if strings.HasSuffix(dir, "/hugepages") {
		return []string{"hugepages-1048576kB", "hugepages-2048kB"}, nil
	}
	return nil, fs.ErrNotExist
}
