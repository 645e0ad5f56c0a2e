package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

func memoryChecks() []Check {
	return []Check{
		{ID: "memory-shared", Group: "memory", Title: "guest memory is shared with the switch", Scope: Domain, Run: onDomain(checkShared)},
		{ID: "memory-source", Group: "memory", Title: "guest memory is on hugepages or a memfd", Scope: Domain, Run: onDomain(checkSource)},
		{ID: "memory-prealloc", Group: "memory", Title: "guest memory is allocated at the start", Scope: Domain, Run: onDomain(checkPrealloc)},
		{ID: "memory-hugepages", Group: "memory", Title: "there are hugepages for the guest, on the right nodes", Scope: Domain, Run: onDomain(checkDomainPages)},
		{ID: "memory-locked", Group: "memory", Title: "locked memory has a limit that allows it", Scope: Domain, Run: onDomain(checkLocked)},
	}
}

// private says why the guest's memory, or a part of it, is not shared; "" where all is.
func (x description) private() string {
	shared := x.Backing != nil && x.Backing.Access.Mode == "shared"
	if len(x.Cells) == 0 {
		if !shared {
			return "<memoryBacking> has no <access mode='shared'/>"
		}
		return ""
	}
	var cells []string
	for _, c := range x.Cells {
		if c.Access == "private" || c.Access == "" && !shared {
			cells = append(cells, firstOf(c.ID, "?"))
		}
	}
	if len(cells) == 0 {
		return ""
	}
	if shared {
		return "memAccess='private' of NUMA cell " + strings.Join(cells, ", ") + " overrides the shared access of <memoryBacking>"
	}
	return "NUMA cell " + strings.Join(cells, ", ") + " is not shared"
}

func (x description) memfd() bool { return x.Backing != nil && x.Backing.Source.Type == "memfd" }
func (x description) huge() bool  { return x.Backing != nil && x.Backing.Huge != nil }

func checkShared(_ context.Context, _ *Env, d *domain) Result {
	if d.next.wrapped() {
		return ok("qemu-wrap makes it shared")
	}
	fix := "vhostctl attach " + quote(d.Name) + "   # or virsh edit " + quote(d.Name) + ": <access mode='shared'/>, memAccess='shared' in each cell; then stop and start it"
	if why := d.now.private(); why != "" {
		return fail(fix, "%s: the switch cannot map it, and no packet flows", why)
	}
	if why := d.next.private(); why != "" {
		return fail(fix, "from the next start on: %s", why)
	}
	return ok("shared")
}

func checkSource(_ context.Context, _ *Env, d *domain) Result {
	x := d.next
	switch {
	case x.wrapped():
		return ok("qemu-wrap chooses")
	case x.huge() && x.memfd():
		return ok("memfd on hugepages")
	case x.huge():
		return ok("hugepages")
	case x.memfd():
		return ok("memfd, without hugepages")
	case x.private() != "":
		return notApplicable("it is not shared")
	}
	return warn("virsh edit "+quote(d.Name)+"   # <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
		"guest memory is a file in libvirt's memory_backing_dir: it works, and is written back to disk")
}

// checkPrealloc looks at the running process first: it knows what was really asked for.
func checkPrealloc(_ context.Context, e *Env, d *domain) Result {
	if list, err := e.processes(); d.Active && err == nil {
		if p, found := e.emulator(list, d.Name); found {
			return judgePrealloc(p, d)
		}
	}
	x := d.next
	immediate := x.Backing != nil && x.Backing.Allocation.Mode == "immediate"
	switch {
	case x.wrapped():
		return ok("qemu-wrap asks for it")
	case x.huge():
		return ok("libvirt always allocates hugepages at the start")
	case immediate:
		return ok("<allocation mode='immediate'/>")
	}
	return ok("ordinary pages come when they are touched; <allocation mode='immediate'/> takes them at the start")
}

func judgePrealloc(p process, d *domain) Result {
	line := strings.Join(p.Args, "\n")
	source := fmt.Sprintf("/proc/%d/cmdline", p.PID)
	huge := strings.Contains(line, `"hugetlb":true`) || strings.Contains(line, "hugetlb=on") || strings.Contains(line, "hugepages")
	prealloc := strings.Contains(line, `"prealloc":true`) || strings.Contains(line, "prealloc=on") || strings.Contains(line, "prealloc=yes") ||
		slices.Contains(p.Args, "-mem-prealloc")
	switch {
	case prealloc:
		return ok("allocated").from(source)
	case huge:
		return warn("virsh edit "+quote(d.Name)+"   # <allocation mode='immediate'/>; by hand: -mem-prealloc", "hugepages are taken one by one: "+
			"when they run out the guest is killed (SIGBUS)").from(source)
	}
	return ok("ordinary pages come when they are touched").from(source)
}

// need is hugepages of one size, from some nodes; no nodes: from anywhere.
type need struct {
	KiB, Memory uint64 // size of a page, and memory
	Nodes       []int
	Strict      bool
}

// needs splits the guest's memory by size of page and host nodes.
func (x description) needs(defaultKiB uint64) []need {
	pageOf := func(cell string) uint64 {
		size := defaultKiB
		for _, p := range x.Backing.Huge.Pages {
			if p.NodeSet == "" || cell != "" && slices.Contains(numberSet(p.NodeSet), number(cell)) {
				size = kib(p.Size, firstOf(p.Unit, "KiB"))
			}
		}
		return size
	}
	var nodes []int
	mode := "strict"
	if x.Numa.Memory != nil {
		nodes, mode = numberSet(x.Numa.Memory.NodeSet), firstOf(x.Numa.Memory.Mode, "strict")
	}
	if len(x.Cells) == 0 {
		return []need{{pageOf(""), x.Memory.kib(), nodes, mode == "strict"}}
	}
	var list []need
	for i, c := range x.Cells {
		id := firstOf(c.ID, fmt.Sprint(i))
		n := need{pageOf(id), kib(c.Memory, firstOf(c.Unit, "KiB")), nodes, mode == "strict"}
		for _, m := range x.Numa.Nodes {
			if m.Cell == id {
				n.Nodes, n.Strict = numberSet(m.NodeSet), firstOf(m.Mode, "strict") == "strict"
			}
		}
		list = append(list, n)
	}
	return list
}

func checkDomainPages(_ context.Context, e *Env, d *domain) Result {
	if !d.next.huge() {
		return notApplicable("the guest is not on hugepages")
	}
	if d.Active && d.now.huge() {
		return ok("the guest has its pages")
	}
	host, err := pools(e.Files, hostPools)
	if err != nil {
		return fail("start the host with a kernel that has hugetlbfs", "%v", err).from(hostPools)
	}
	nodes := nodePools(e.Files)
	var all []Result
	for _, n := range d.next.needs(defaultPage(e.Files)) {
		all = append(all, judgeNeed(n, host, nodes, d.Name))
		host, nodes = take(n, host, nodes)
	}
	return merge(all...).from(hostPools)
}

func judgeNeed(n need, host []pool, nodes map[int][]pool, name string) Result {
	at := func(list []pool) (pool, bool) {
		i := slices.IndexFunc(list, func(p pool) bool { return p.KiB == n.KiB })
		if i < 0 {
			return pool{}, false
		}
		return list[i], true
	}
	all, known := at(host)
	if n.KiB == 0 || !known {
		return fail("virsh edit "+quote(name)+"   # <page size='2' unit='M'/>", "this host has no pages of %s", sizeName(n.KiB))
	}
	if n.Memory%n.KiB != 0 {
		return fail("virsh edit "+quote(name)+"   # <memory>", "%d KiB of memory is not a multiple of the %s page", n.Memory, sizeName(n.KiB))
	}
	want, free, where := n.Memory/n.KiB, all.available(), ""
	file := fmt.Sprintf("%s/hugepages-%dkB/nr_hugepages", hostPools, n.KiB)
	if n.Strict && len(n.Nodes) > 0 {
		free, where = 0, fmt.Sprintf(" on node %s", strings.Trim(fmt.Sprint(n.Nodes), "[]"))
		for _, id := range n.Nodes {
			p, _ := at(nodes[id])
			free += p.Free
		}
		free = min(free, all.available())
		file = fmt.Sprintf("/sys/devices/system/node/node%d/hugepages/hugepages-%dkB/nr_hugepages", n.Nodes[0], n.KiB)
	}
	if free < want {
		return fail(fmt.Sprintf("echo $(( $(cat %s) + %d )) > %s   # then read it back: it may be fewer", file, want-free, file),
			"needs %d × %s%s, %d are free", want, sizeName(n.KiB), where, free)
	}
	return ok("%d of %d free × %s%s", want, free, sizeName(n.KiB), where)
}

// take gives a need its pages, so that the next one is judged by what is left.
func take(n need, host []pool, nodes map[int][]pool) ([]pool, map[int][]pool) {
	if n.KiB == 0 {
		return host, nodes
	}
	from := func(list []pool, pages uint64) uint64 {
		for i := range list {
			if list[i].KiB == n.KiB {
				taken := min(pages, list[i].Free)
				list[i].Free -= taken
				return taken
			}
		}
		return 0
	}
	pages := n.Memory / n.KiB
	from(host, pages)
	for _, id := range n.Nodes {
		pages -= from(nodes[id], pages)
	}
	return host, nodes
}

func checkLocked(_ context.Context, _ *Env, d *domain) Result {
	x := d.next
	if x.Backing == nil || x.Backing.Locked == nil {
		return notApplicable("memory is not locked, and need not be")
	}
	if x.Tune.Hard == nil {
		return warn("virsh edit "+quote(d.Name)+"   # remove <locked/>, or add <memtune><hard_limit unit='KiB'>…</hard_limit></memtune>",
			"<locked/> without <hard_limit>: QEMU may lock all memory of the host")
	}
	if x.Tune.Hard.kib() <= x.Memory.kib() {
		return fail("virsh edit "+quote(d.Name)+"   # raise <hard_limit> by 1 GiB or more over <memory>", "<hard_limit> is not above the guest's memory")
	}
	return ok("limit %d MiB", x.Tune.Hard.kib()>>10)
}
