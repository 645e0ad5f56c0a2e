package qemuwrap

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// defaultMemory is a machine's memory when no -m says otherwise, in bytes (QEMU's default).
	defaultMemory = 128 << 20
	mebibyte      = 1 << 20
	// ramID names the memory object that the wrapper makes.
	ramID = "vhostkit-ram"
)

// memory makes the guest's memory shared and preallocated, whatever form it came in: the switch maps it.
func (r *rewriter) memory() error {
	used, err := r.backendsInUse()
	if err != nil {
		return err
	}
	switch {
	case len(used) > 0:
		return r.shareBackends(used)
	case r.config.Memory == "mem-path" || r.config.Mode == ModeCUSE && !r.qemu().AtLeast(2, 1):
		return r.memPath()
	case r.hasNUMA():
		return r.numaBackends()
	default:
		return r.machineBackend()
	}
}

// backendsInUse lists the memory objects that are the machine's memory: of -machine memory-backend=, or of NUMA nodes.
func (r *rewriter) backendsInUse() ([]string, error) {
	var ids []string
	for _, o := range r.options {
		first, key := "", ""
		switch {
		case o.is("machine", "M"):
			first, key = "type", "memory-backend"
		case o.is("numa"):
			first, key = "type", "memdev"
		default:
			continue
		}
		k, err := parseKeyval(o.value(), first)
		if err != nil {
			return nil, fmt.Errorf("-%s: %w", o.name, err)
		}
		if id := k.text(key); id != "" {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// shareBackends makes the named memory objects shared and preallocated.
func (r *rewriter) shareBackends(ids []string) error {
	found := map[string]bool{}
	wanted := uint64(0) // by the objects before: they take from the same pools
	for i := range r.options {
		o := &r.options[i]
		if !o.is("object") {
			continue
		}
		k, err := parseKeyval(o.value(), "qom-type")
		if err != nil {
			return fmt.Errorf("-object: %w", err)
		}
		id := k.text("id")
		if !slices.Contains(ids, id) {
			continue
		}
		found[id] = true
		change, err := r.share(k, &wanted)
		if err != nil {
			return err
		}
		if change != "" {
			o.setValue(k.String())
			r.because("memory %s: %s, because switchd maps the guest's memory", id, change)
		}
	}
	for _, id := range ids {
		if !found[id] {
			return fmt.Errorf("memory object %q is used and there is no -object with that id", id)
		}
	}
	return nil
}

// share changes one memory object and tells how, "" if it was right already.
func (r *rewriter) share(k *keyval, wanted *uint64) (string, error) {
	var done []string
	kind := k.text("qom-type")
	switch kind {
	case "memory-backend-file", "memory-backend-memfd":
	case "memory-backend-ram":
		size, err := parseSize(k.text("size"), 1)
		if err != nil {
			return "", fmt.Errorf("memory object %s: %w", k.text("id"), err)
		}
		how, err := r.place(k, size, hostNode(k), wanted)
		if err != nil {
			return "", err
		}
		done = append(done, how)
	default:
		return "", fmt.Errorf("memory object %s is a %s, which cannot be shared with switchd: use memory-backend-memfd or memory-backend-file",
			k.text("id"), kind)
	}
	if k.set("share", true) {
		done = append(done, "shared")
	}
	if k.set("prealloc", true) {
		done = append(done, "preallocated")
	}
	return strings.Join(done, ", "), nil
}

// place chooses where memory of a size comes from, and says so in the object: a hugetlb memfd, which needs no mount and no permission; a file
// in the configured hugetlbfs; or, where hugepages are not to be had and not demanded, a memfd of ordinary pages.
func (r *rewriter) place(k *keyval, size uint64, node int, wanted *uint64) (string, error) {
	if r.config.HugetlbfsDir != "" {
		k.set("qom-type", "memory-backend-file")
		k.set("mem-path", r.config.HugetlbfsDir)
		return "a file in " + r.config.HugetlbfsDir + " (hugetlbfs_dir)", nil
	}
	if !r.qemu().AtLeast(2, 12) { // no memory-backend-memfd
		dir, err := r.findMount(size, node)
		if err != nil {
			return "", err
		}
		k.set("qom-type", "memory-backend-file")
		k.set("mem-path", dir)
		return "a file in " + dir, nil
	}
	k.set("qom-type", "memory-backend-memfd")
	if r.config.Hugepages == HugepagesNever {
		return "a memfd", nil
	}
	pageSize, err := r.findPages(size, node, wanted)
	if err != nil {
		if r.config.Hugepages == HugepagesRequire {
			return "", err
		}
		return "a memfd of ordinary pages (" + err.Error() + ")", nil
	}
	k.set("hugetlb", true)
	k.set("hugetlbsize", pageSize)
	return fmt.Sprintf("a memfd of %d KiB hugepages", pageSize>>10), nil
}

// hostNode is the NUMA node that an object is bound to, -1 for none or several.
func hostNode(k *keyval) int {
	nodes := k.text("host-nodes")
	nodes = strings.Trim(nodes, "[]")
	if n, err := strconv.Atoi(nodes); err == nil && n >= 0 {
		return n
	}
	return -1
}

// findPages finds a page size of which enough pages are free for size bytes, the default size first.
func (r *rewriter) findPages(size uint64, node int, wanted *uint64) (uint64, error) {
	var tried []string
	for _, pageSize := range pageSizes(r.system.FS) {
		if size%pageSize != 0 {
			tried = append(tried, fmt.Sprintf("%d MiB is no multiple of %d KiB", size>>20, pageSize>>10))
			continue
		}
		free := freePages(r.system.FS, pageSize, node)
		if free*pageSize >= size+*wanted {
			*wanted += size
			return pageSize, nil
		}
		tried = append(tried, fmt.Sprintf("%d of %d hugepages of %d KiB are free", free, (size+*wanted)/pageSize, pageSize>>10))
	}
	where := ""
	if node >= 0 {
		where = fmt.Sprintf(" on node %d", node)
	}
	if len(tried) == 0 {
		return 0, fmt.Errorf("this kernel has no hugepages")
	}
	return 0, fmt.Errorf("%s%s: reserve more with vhostctl hugepages provision", strings.Join(tried, "; "), where)
}

// findMount finds a hugetlbfs that this user may write to, with enough free pages.
func (r *rewriter) findMount(size uint64, node int) (string, error) {
	if r.config.HugetlbfsDir != "" {
		return r.config.HugetlbfsDir, nil
	}
	var tried []string
	for _, m := range mounts(r.system.FS) {
		switch free := freePages(r.system.FS, max(m.size, 1), node); {
		case !r.system.Writable(m.path):
			tried = append(tried, m.path+" is not writable by this user")
		case free*m.size < size:
			tried = append(tried, fmt.Sprintf("%s has %d MiB free of %d", m.path, free*m.size>>20, size>>20))
		default:
			return m.path, nil
		}
	}
	if len(tried) == 0 {
		return "", fmt.Errorf("failed to find a hugetlbfs mount point: mount one (mount -t hugetlbfs nodev /dev/hugepages) before libvirtd starts, " +
			"or set hugetlbfs_dir")
	}
	return "", fmt.Errorf("no hugetlbfs can hold the guest's %d MiB: %s; reserve more with vhostctl hugepages provision", size>>20,
		strings.Join(tried, "; "))
}

// size is the machine's memory in bytes (-m).
func (r *rewriter) size() (uint64, error) {
	size := uint64(defaultMemory)
	for _, o := range r.options {
		if !o.is("m") {
			continue
		}
		k, err := parseKeyval(o.value(), "size")
		if err != nil {
			return 0, fmt.Errorf("-m: %w", err)
		}
		text, ok := k.get("size")
		if !ok {
			continue
		}
		if size, err = parseSize(text, mebibyte); err != nil {
			return 0, fmt.Errorf("-m: %w", err)
		}
	}
	return size, nil
}

// memPath is how QEMUs before 2.1 got their memory from hugepages: they shared it only with -mem-prealloc.
func (r *rewriter) memPath() error {
	has := func(name string) bool {
		return slices.ContainsFunc(r.options, func(o option) bool { return o.name == name })
	}
	if !has("mem-path") {
		size, err := r.size()
		if err != nil {
			return err
		}
		dir, err := r.findMount(size, -1)
		if err != nil {
			return err
		}
		r.front = append(r.front, newOption("mem-path", dir))
		r.because("-mem-path %s: switchd finds the guest's memory on a hugetlbfs", dir)
	}
	if !has("mem-prealloc") {
		r.front = append(r.front, option{name: "mem-prealloc", tokens: []string{"-mem-prealloc"}})
		r.because("-mem-prealloc: without it the memory is not shared")
	}
	return nil
}

// takeMemPath removes -mem-path, which cannot be used together with a memory object, and returns its directory.
func (r *rewriter) takeMemPath() string {
	dir := ""
	for i := 0; i < len(r.options); {
		if r.options[i].is("mem-path") {
			dir = r.options[i].value()
			r.remove(i)
		} else {
			i++
		}
	}
	return dir
}

// newBackend describes a memory object.
func (r *rewriter) newBackend(id string, size uint64, memPath string, wanted *uint64) (*keyval, string, error) {
	k, err := parseKeyval("memory-backend-ram,id="+id, "qom-type")
	if err != nil {
		return nil, "", err
	}
	k.set("size", size)
	how := "a file in " + memPath + " (-mem-path)"
	if memPath != "" {
		k.set("qom-type", "memory-backend-file")
		k.set("mem-path", memPath)
	} else if how, err = r.place(k, size, -1, wanted); err != nil {
		return nil, "", err
	}
	k.set("share", true)
	k.set("prealloc", true)
	return k, how, nil
}

// machineBackend gives a machine with plain -m (and -mem-path) a shared memory object.
func (r *rewriter) machineBackend() error {
	size, err := r.size()
	if err != nil {
		return err
	}
	wanted := uint64(0)
	k, how, err := r.newBackend(ramID, size, r.takeMemPath(), &wanted)
	if err != nil {
		return err
	}
	r.because("memory: %d MiB as %s, shared and preallocated, because switchd maps the guest's memory", size>>20, how)
	r.front = append(r.front, newOption("object", k.String()))
	for i := len(r.options) - 1; i >= 0; i-- {
		if o := &r.options[i]; o.is("machine", "M") {
			m, err := parseKeyval(o.value(), "type")
			if err != nil {
				return err
			}
			m.set("memory-backend", ramID)
			o.setValue(m.String())
			return nil
		}
	}
	r.front = append(r.front, newOption("machine", "memory-backend="+ramID))
	return nil
}

// numaNode is a -numa node option.
type numaNode struct {
	at int
	k  *keyval
}

func (r *rewriter) numaNodes() []numaNode {
	var nodes []numaNode
	for i := range r.options {
		if o := &r.options[i]; o.is("numa") {
			if k, err := parseKeyval(o.value(), "type"); err == nil && k.text("type") == "node" {
				nodes = append(nodes, numaNode{i, k})
			}
		}
	}
	return nodes
}

func (r *rewriter) hasNUMA() bool { return len(r.numaNodes()) > 0 }

// numaBackends gives each NUMA node with mem= a shared memory object.
func (r *rewriter) numaBackends() error {
	memPath, wanted := r.takeMemPath(), uint64(0)
	for n, node := range r.numaNodes() {
		text, ok := node.k.get("mem")
		if !ok {
			return fmt.Errorf("-numa %s says neither mem= nor memdev=: say how much memory the node has", node.k)
		}
		size, err := parseSize(text, mebibyte)
		if err != nil {
			return fmt.Errorf("-numa: %w", err)
		}
		id := fmt.Sprintf("%s%d", ramID, n)
		k, how, err := r.newBackend(id, size, memPath, &wanted)
		if err != nil {
			return err
		}
		node.k.remove(func(key string) bool { return key == "mem" })
		node.k.set("memdev", id)
		r.options[node.at+n].setValue(node.k.String()) // the objects before have moved it
		r.insert(node.at+n, newOption("object", k.String()))
		r.because("memory of NUMA node %d: %d MiB as %s, shared and preallocated, because switchd maps the guest's memory", n, size>>20, how)
	}
	return nil
}
