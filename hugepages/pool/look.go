// Package pool reads and sets the kernel's pools of hugepages, by NUMA node and page size.
//
// Source: Documentation/admin-guide/mm/hugetlbpage.rst of Linux. A write of a count may give fewer pages without an error, so every count
// is read back.
package pool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vhostkit/hugepages/bytesize"
)

// Files is where the kernel shows and takes numbers: the running system's files, or a table in tests.
type Files interface {
	Read(path string) (string, error)
	Write(path, text string) error
	List(dir string) ([]string, error) // fs.ErrNotExist where there is none
}

// System is the running system.
type System struct{}

// Read reads a file whole.
func (System) Read(path string) (string, error) {
	data, err := os.ReadFile(path)
	return string(data), err
}

// Write writes to a file that exists.
func (System) Write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// List names the entries of a directory.
func (System) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// ErrNoHugepages says that this kernel has none.
var ErrNoHugepages = errors.New("this kernel has no hugepages (CONFIG_HUGETLBFS)")

// Pool is the pages of one size, of a node or of all.
type Pool struct {
	Size bytesize.Size `json:"size"` // bytes a page
	// Total is what was reserved for good; Surplus pages come on top and go when they are freed.
	Total   uint64 `json:"total"`
	Free    uint64 `json:"free"`
	Surplus uint64 `json:"surplus"`
	// Reserved of the free pages are promised to mappings. The kernel tells it for all nodes together only; in a node's pool it is the most
	// that it can be.
	Reserved uint64 `json:"reserved"`
}

// InUse is how many pages a pool must keep for those who use them or were promised them.
func (p Pool) InUse() uint64 {
	used := p.Total + p.Surplus - min(p.Free, p.Total+p.Surplus) + min(p.Reserved, p.Free)
	return min(used, p.Total)
}

// Node is a NUMA node with memory.
type Node struct {
	ID         int           `json:"node"`
	Memory     bytesize.Size `json:"memory"`
	FreeMemory bytesize.Size `json:"free_memory"`
	Pools      []Pool        `json:"pools"`
	dir        string
}

// Pool finds the pool of a size.
func (n Node) Pool(size bytesize.Size) Pool { return find(n.Pools, size) }

func find(list []Pool, size bytesize.Size) Pool {
	if i := slices.IndexFunc(list, func(p Pool) bool { return p.Size == size }); i >= 0 {
		return list[i]
	}
	return Pool{Size: size}
}

// State is all there is.
type State struct {
	Default bytesize.Size `json:"default_size"`
	Pools   []Pool        `json:"pools"` // of all nodes together, largest pages first
	Nodes   []Node        `json:"nodes"`
}

// Sizes are the page sizes that the kernel has, the largest first.
func (s State) Sizes() []bytesize.Size {
	var list []bytesize.Size
	for _, p := range s.Pools {
		list = append(list, p.Size)
	}
	return list
}

// Node finds a node.
func (s State) Node(id int) (Node, bool) {
	i := slices.IndexFunc(s.Nodes, func(n Node) bool { return n.ID == id })
	if i < 0 {
		return Node{}, false
	}
	return s.Nodes[i], true
}

// Total is the pool of a size over all nodes.
func (s State) Total(size bytesize.Size) Pool { return find(s.Pools, size) }

const (
	allDir  = "/sys/kernel/mm/hugepages"
	nodeDir = "/sys/devices/system/node"
	meminfo = "/proc/meminfo"
)

// Look reads the state. Kernels without NUMA have one node, 0.
func Look(f Files) (State, error) {
	var s State
	text, err := f.Read(meminfo)
	if err != nil {
		return s, err
	}
	s.Default = line(text, "Hugepagesize:")
	if s.Pools, err = pools(f, allDir); err != nil {
		return s, err
	}
	names, err := f.List(nodeDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	for _, name := range names {
		id, err := strconv.Atoi(strings.TrimPrefix(name, "node"))
		if err != nil || !strings.HasPrefix(name, "node") {
			continue
		}
		text, err := f.Read(filepath.Join(nodeDir, name, "meminfo"))
		if err != nil {
			return s, err
		}
		n := Node{ID: id, Memory: line(text, "MemTotal:"), FreeMemory: line(text, "MemFree:"), dir: filepath.Join(nodeDir, name, "hugepages")}
		if n.Memory == 0 {
			continue // processors only
		}
		if n.Pools, err = pools(f, n.dir); err != nil {
			return s, err
		}
		for i, p := range n.Pools {
			n.Pools[i].Reserved = min(s.Total(p.Size).Reserved, p.Free)
		}
		s.Nodes = append(s.Nodes, n)
	}
	if len(s.Nodes) == 0 {
		s.Nodes = []Node{{Memory: line(text, "MemTotal:"), FreeMemory: line(text, "MemFree:"), Pools: slices.Clone(s.Pools), dir: allDir}}
	}
	if n := &s.Nodes[0]; len(s.Nodes) == 1 {
		// Some virtual machines do not count memory that was added later as the node's.
		n.Memory, n.FreeMemory = max(n.Memory, line(text, "MemTotal:")), max(n.FreeMemory, line(text, "MemFree:"))
	}
	slices.SortFunc(s.Nodes, func(a, b Node) int { return a.ID - b.ID })
	return s, nil
}

// line finds a number of kilobytes in a meminfo file; a node's lines begin with "Node 0 ".
func line(text, key string) bytesize.Size {
	for l := range strings.Lines(text) {
		words := strings.Fields(l)
		if i := slices.Index(words, key); i >= 0 && i+1 < len(words) {
			kib, _ := strconv.ParseUint(words[i+1], 10, 50)
			return bytesize.Size(kib) * bytesize.KiB
		}
	}
	return 0
}

func pools(f Files, dir string) ([]Pool, error) {
	names, err := f.List(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return nil, ErrNoHugepages
	}
	if err != nil {
		return nil, err
	}
	var list []Pool
	for _, name := range names {
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(name, "hugepages-"), "kB"), 10, 40)
		if err != nil {
			continue
		}
		p := Pool{Size: bytesize.Size(kib) * bytesize.KiB}
		if err := p.read(f, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Pool) int { return cmp.Compare(b.Size, a.Size) })
	return list, nil
}

func (p *Pool) read(f Files, dir string) error {
	for _, file := range []struct {
		name string
		to   *uint64
	}{{"nr_hugepages", &p.Total}, {"free_hugepages", &p.Free}, {"surplus_hugepages", &p.Surplus}, {"resv_hugepages", &p.Reserved}} {
		text, err := f.Read(filepath.Join(dir, file.name))
		if errors.Is(err, fs.ErrNotExist) && file.name == "resv_hugepages" {
			continue // nodes have none
		}
		if err != nil {
			return err
		}
		if *file.to, err = strconv.ParseUint(strings.TrimSpace(text), 10, 64); err != nil {
			return fmt.Errorf("%s/%s: %w", dir, file.name, err)
		}
	}
	p.Total -= min(p.Surplus, p.Total)
	return nil
}
