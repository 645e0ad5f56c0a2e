// Package hugepages sets hugepages up for guests and for the switch, at run time and for the next boot, and takes it back: how many are
// needed, of which size, on which node; the kernel's pools; mounts; /etc/fstab; the kernel's command line.
//
// Two set-ups come out of it: pages of 1 GiB for guests, as the default size, with pages of 2 MiB for the switch on a mount of their own;
// or pages of 2 MiB for both on one mount.
package hugepages

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/kernelargs"
	"vhostkit/hugepages/mount"
	"vhostkit/hugepages/pool"
)

// DefaultMount is where the switch's pages are mounted if they are not of the default size.
const DefaultMount = "/mnt/huge"

// switchPage is the size of the switch's pages.
const switchPage = 2 * bytesize.MiB

// ErrRequest says that what is asked cannot be: nothing was touched.
var ErrRequest = errors.New("cannot be done")

// Domain is a guest that libvirt knows.
type Domain struct {
	Name string
	// Memory is what it takes at most, in parts that each round up to the page: one, or one a NUMA cell.
	Memory []bytesize.Size
}

// Request is what is asked.
type Request struct {
	ForVMs    bytesize.Size // memory of all guests together, 0: none
	ForSwitch bytesize.Size // memory of programs that want pages of their own, 0: none
	Domains   []Domain      // their memory is added to ForVMs
	// PageSize is of the guests' pages; 0: 1 GiB where the processor has them, 2 MiB elsewhere.
	PageSize bytesize.Size
	Nodes    map[int]uint64 // the guests' pages by NUMA node; nil: evenly
	Mount    string         // for the switch's pages where they need a mount of their own; empty: DefaultMount
	Persist  bool           // for the next boot
	Runtime  bool           // now; neither: both
	Exact    bool           // also lower what is there to what is asked
}

// Need is what comes out of a request.
type Need struct {
	PageSize bytesize.Size     `json:"page_size"` // of the guests' pages, which shall be the default
	Pools    []kernelargs.Pool `json:"pools"`
	Mount    *mount.Mount      `json:"mount,omitempty"` // beside the default one
	Reasons  []string          `json:"reasons"`         // how the counts came about
}

// Work finds out what is needed on a machine.
func Work(r Request, s pool.State) (Need, error) {
	var n Need
	n.PageSize = r.PageSize
	if n.PageSize == 0 {
		if n.PageSize = switchPage; slices.Contains(s.Sizes(), bytesize.GiB) {
			n.PageSize = bytesize.GiB
		}
	}
	if err := r.check(n.PageSize, s); err != nil {
		return n, err
	}
	vms := n.count(r)
	if vms > 0 {
		n.Pools = append(n.Pools, kernelargs.Pool{Size: n.PageSize, Count: vms, Nodes: r.Nodes})
	}
	if extra := r.ForSwitch.Pages(switchPage); extra > 0 {
		n.Reasons = append(n.Reasons, fmt.Sprintf("%d × %v for the switch (%v)", extra, switchPage, r.ForSwitch))
		n.addForSwitch(extra, r)
	}
	return n, n.fits(s)
}

// count is the number of the guests' pages.
func (n *Need) count(r Request) uint64 {
	pages := r.ForVMs.Pages(n.PageSize)
	if r.ForVMs > 0 {
		n.Reasons = append(n.Reasons, fmt.Sprintf("%d × %v for guests (%v)", pages, n.PageSize, r.ForVMs))
	}
	for _, d := range r.Domains {
		own := uint64(0)
		for _, part := range d.Memory {
			own += part.Pages(n.PageSize)
		}
		n.Reasons = append(n.Reasons, fmt.Sprintf("%d × %v for domain %s", own, n.PageSize, d.Name))
		pages += own
	}
	if r.Nodes == nil {
		return pages
	}
	sum := sumNodes(r.Nodes)
	n.Reasons = append(n.Reasons, fmt.Sprintf("%d × %v placed by node", sum, n.PageSize))
	return sum
}

func (n *Need) addForSwitch(extra uint64, r Request) {
	if n.PageSize != switchPage {
		n.Pools = append(n.Pools, kernelargs.Pool{Size: switchPage, Count: extra})
		n.Mount = &mount.Mount{Path: DefaultMount, Size: switchPage}
		if r.Mount != "" {
			n.Mount.Path = filepath.Clean(r.Mount)
		}
		return
	}
	if len(n.Pools) == 0 {
		n.Pools = []kernelargs.Pool{{Size: switchPage}}
	}
	p := &n.Pools[0]
	p.Count += extra
	if p.Nodes != nil {
		p.Nodes = spread(extra, p.Nodes)
	}
}

// spread adds pages to nodes, each time where there are fewest.
func spread(extra uint64, nodes map[int]uint64) map[int]uint64 {
	out := map[int]uint64{}
	for n, c := range nodes {
		out[n] = c
	}
	for ; extra > 0; extra-- {
		least := -1
		for n := range out {
			if least < 0 || out[n] < out[least] || out[n] == out[least] && n < least {
				least = n
			}
		}
		out[least]++
	}
	return out
}

// check refuses what makes no sense on this machine.
func (r Request) check(page bytesize.Size, s pool.State) error {
	if r.ForVMs == 0 && r.ForSwitch == 0 && len(r.Nodes) == 0 && len(r.Domains) == 0 {
		return fmt.Errorf("%w: nothing is asked for; say --for-vms SIZE, --for-domains, --node N=COUNT or --for-switch SIZE", ErrRequest)
	}
	for option, size := range map[string]bytesize.Size{"--for-vms": r.ForVMs, "--for-switch": r.ForSwitch} {
		if size > 0 && size < bytesize.MiB {
			return fmt.Errorf("%w: %s %d: unit missing; did you mean %dG or %dM?", ErrRequest, option, size, size, size)
		}
	}
	if r.Nodes != nil && sumNodes(r.Nodes) == 0 {
		return fmt.Errorf("%w: --node places no page at all", ErrRequest)
	}
	for _, size := range []bytesize.Size{page, switchPage} {
		if !slices.Contains(s.Sizes(), size) && (size == page || r.ForSwitch > 0) {
			return fmt.Errorf("%w: this machine has no pages of %v, only of %v (1G needs pdpe1gb in /proc/cpuinfo)", ErrRequest, size, s.Sizes())
		}
	}
	for n := range r.Nodes {
		if _, ok := s.Node(n); !ok {
			var there []string
			for _, node := range s.Nodes {
				there = append(there, fmt.Sprint(node.ID))
			}
			return fmt.Errorf("%w: there is no NUMA node %d with memory; there is %s", ErrRequest, n, strings.Join(there, ", "))
		}
	}
	if r.Nodes != nil && (r.ForVMs > 0 || len(r.Domains) > 0) {
		asked := Request{ForVMs: r.ForVMs, Domains: r.Domains}
		if wanted := (&Need{PageSize: page}).count(asked); sumNodes(r.Nodes) < wanted {
			return fmt.Errorf("%w: --node places %d pages of %v, and the guests need %d", ErrRequest, sumNodes(r.Nodes), page, wanted)
		}
	}
	if m := r.Mount; m != "" && (!filepath.IsAbs(m) || filepath.Clean(m) == "/" || filepath.Clean(m) == mount.Default || strings.ContainsAny(m, "\n\x00")) {
		return fmt.Errorf("%w: --mount %q: want a directory of its own, as an absolute path", ErrRequest, m)
	}
	return nil
}

func sumNodes(nodes map[int]uint64) uint64 {
	sum := uint64(0)
	for _, c := range nodes {
		sum += c
	}
	return sum
}

// hostShare is what must be left for the host: 5 % of the memory, at least 256 MiB.
func hostShare(memory bytesize.Size) bytesize.Size { return max(256*bytesize.MiB, memory/20) }

// fits refuses more than the memory there is, on a node and in all.
func (n Need) fits(s pool.State) error {
	var all bytesize.Size
	for _, node := range s.Nodes {
		all += node.Memory
		var placed bytesize.Size
		for _, p := range n.Pools {
			if count := p.Nodes[node.ID]; count > uint64((node.Memory-placed)/p.Size) {
				return fmt.Errorf("%w: %d pages of %v are asked for on node %d, which has %d MiB of memory", ErrRequest, count, p.Size, node.ID,
					node.Memory>>20)
			}
			placed += bytesize.Size(p.Nodes[node.ID]) * p.Size
		}
	}
	var sum bytesize.Size
	for _, p := range n.Pools {
		if p.Count > uint64(all/p.Size) {
			return fmt.Errorf("%w: %d pages of %v are more than the %d MiB of memory there is", ErrRequest, p.Count, p.Size, all>>20)
		}
		sum += bytesize.Size(p.Count) * p.Size
	}
	// Pages of sizes that are not asked for stay.
	for _, is := range s.Pools {
		if !slices.ContainsFunc(n.Pools, func(p kernelargs.Pool) bool { return p.Size == is.Size }) {
			sum += bytesize.Size(is.Total) * is.Size
		}
	}
	if sum+hostShare(all) > all {
		return fmt.Errorf("%w: hugepages of %d MiB would leave less than %d MiB of %d MiB for the host", ErrRequest, sum>>20, hostShare(all)>>20, all>>20)
	}
	return nil
}
