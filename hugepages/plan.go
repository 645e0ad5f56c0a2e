package hugepages

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"vhostkit/hugepages/boot"
	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/fstab"
	"vhostkit/hugepages/kernelargs"
	"vhostkit/hugepages/mount"
	"vhostkit/hugepages/pool"
	"vhostkit/internal/sysedit"
)

// Plan is what will be done for a request.
type Plan struct {
	Need    Need
	Targets []pool.Target // pools that change now
	Mounts  []madeMount   // mounts that are made now
	Boot    boot.Plan
	Reboot  []string // why a reboot is needed; empty: it is not
	Notes   []string

	host    Host
	request Request
	files   *sysedit.Plan // what an operator wants to see
	lines   []sysedit.File
	points  []string // mount points that /etc/fstab wants
	record  record
	now     pool.State
}

// Empty tells that everything is as asked.
func (p *Plan) Empty() bool {
	return len(p.Targets) == 0 && len(p.Mounts) == 0 && p.files.Empty() && len(p.Boot.Commands) == 0
}

// Diff shows how files change.
func (p *Plan) Diff() string { return p.files.Diff() }

// Plan works out what is to do, and touches nothing.
func (h Host) Plan(ctx context.Context, r Request) (*Plan, error) {
	if !r.Persist && !r.Runtime {
		r.Persist, r.Runtime = true, true
	}
	state, err := pool.Look(h.Kernel)
	if err != nil {
		return nil, err
	}
	if len(state.Nodes) == 1 && r.Nodes != nil {
		if r, err = onOneNode(r, state); err != nil {
			return nil, err
		}
	}
	need, err := Work(r, state)
	if err != nil {
		return nil, err
	}
	return h.plan(ctx, r, need, state)
}

// Again plans what was asked for before, for this boot: what a unit does that runs before those who need the pages. Where the command line
// brought them already there is nothing to do.
func (h Host) Again(ctx context.Context) (*Plan, error) {
	r, err := h.load()
	if err != nil {
		return nil, err
	}
	if r == nil || len(r.Asked) == 0 {
		return nil, ErrNothingAsked
	}
	state, err := pool.Look(h.Kernel)
	if err != nil {
		return nil, err
	}
	need := Need{PageSize: r.Default, Pools: r.Asked}
	for _, m := range r.Wanted {
		if m.Path != mount.Default {
			need.Mount = &m
		}
	}
	if err := need.fits(state); err != nil {
		return nil, err
	}
	return h.plan(ctx, Request{Runtime: true}, need, state)
}

func (h Host) plan(ctx context.Context, r Request, need Need, state pool.State) (*Plan, error) {
	p := &Plan{Need: need, host: h, request: r, now: state}
	var err error
	if r.Persist {
		if err := p.planBoot(ctx); err != nil {
			return nil, err
		}
	}
	if r.Runtime {
		if err := errors.Join(p.planPools(), p.planMounts()); err != nil {
			return nil, err
		}
	} else if short := p.short(state); short != "" {
		p.Reboot = append(p.Reboot, short+": they are reserved at boot (--runtime reserves them now)")
	}
	p.explainDefault()
	if err := p.remember(); err != nil {
		return nil, err
	}
	p.files, err = h.Store.Plan(EditName, p.lines...)
	return p, err
}

// onOneNode spares the command line numbers of nodes where there is only one.
func onOneNode(r Request, s pool.State) (Request, error) {
	need := Request{ForVMs: r.ForVMs, Domains: r.Domains, Nodes: r.Nodes, PageSize: r.PageSize, Runtime: true}
	n, err := Work(need, s)
	if err != nil {
		return r, err
	}
	r.ForVMs, r.Domains, r.Nodes = bytesize.Size(sumNodes(r.Nodes))*n.PageSize, nil, nil
	return r, nil
}

// wanted is what the kernel's command line shall say.
func (p *Plan) wanted() kernelargs.Wanted {
	return kernelargs.Wanted{Default: p.Need.PageSize, Pools: p.Need.Pools, Exact: p.request.Exact, Base: base}
}

func (p *Plan) planBoot(ctx context.Context) error {
	h := p.host.boot()
	for _, pool := range p.Need.Pools {
		if pool.Nodes != nil && !hostRelease(h.Release).takesNodes() {
			return fmt.Errorf("%w: kernel %s cannot reserve by node at boot (5.16 can); omit --node, or use --runtime", ErrRequest, h.Release)
		}
	}
	var err error
	if p.Boot, err = h.Plan(ctx, p.wanted()); err != nil {
		return err
	}
	p.lines = append(p.lines, p.Boot.Files...)
	p.Notes = append(p.Notes, p.Boot.Notes...)
	return p.planFstab()
}

// planFstab adds the switch's mount, and the default one where systemd does not make it.
func (p *Plan) planFstab() error {
	content, err := p.host.read("/etc/fstab")
	if err != nil {
		return err
	}
	before := string(content)
	var mounts []mount.Mount
	systemd := false
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		unit, err := p.host.read(filepath.Join(dir, "dev-hugepages.mount"))
		systemd = systemd || err == nil && unit != nil
	}
	if !systemd {
		mounts = append(mounts, mount.Mount{Path: mount.Default, Size: p.Need.PageSize})
	}
	if p.Need.Mount != nil {
		mounts = append(mounts, *p.Need.Mount)
	}
	for _, m := range mounts {
		table, err := fstab.Parse(content)
		var changed []byte
		if err == nil {
			changed, err = table.Mount(m.Path, m.Size)
		}
		if err != nil {
			return fmt.Errorf("/etc/fstab: %w; add this line by hand: %s", err, fstab.Line(m.Path, m.Size))
		}
		if changed != nil {
			content = changed
			p.points = append(p.points, m.Path)
		}
	}
	if string(content) != before {
		p.lines = append(p.lines, sysedit.File{Path: "/etc/fstab", Content: content, Mode: 0o644, UID: -1, GID: -1})
	}
	return nil
}

// planPools finds which pools change now.
func (p *Plan) planPools() error {
	for _, want := range p.Need.Pools {
		targets, err := p.place(want)
		if err == nil {
			p.Targets = append(p.Targets, targets...)
			continue
		}
		if !p.request.Persist {
			return err
		}
		p.Reboot = append(p.Reboot, err.Error())
	}
	return nil
}

// place says how many pages each node gets. Without Exact no pool gets smaller.
func (p *Plan) place(want kernelargs.Pool) ([]pool.Target, error) {
	counts, free := map[int]uint64{}, map[int]uint64{}
	sum := uint64(0)
	for _, n := range p.now.Nodes {
		is := n.Pool(want.Size)
		free[n.ID] = uint64(n.FreeMemory / want.Size)
		counts[n.ID] = is.Total
		switch {
		case want.Nodes != nil && p.request.Exact:
			counts[n.ID] = max(want.Nodes[n.ID], is.InUse())
		case want.Nodes != nil:
			counts[n.ID] = max(want.Nodes[n.ID], is.Total)
		case p.request.Exact:
			counts[n.ID] = is.InUse()
		}
		if counts[n.ID] > is.Total+free[n.ID] {
			return nil, tooFew(want.Size, counts[n.ID]-is.Total, free[n.ID], n.ID)
		}
		free[n.ID] = is.Total + free[n.ID] - counts[n.ID]
		sum += counts[n.ID]
	}
	if want.Nodes == nil {
		for ; sum < want.Count; sum++ {
			least := -1
			for _, n := range p.now.Nodes {
				if free[n.ID] > 0 && (least < 0 || counts[n.ID] < counts[least]) {
					least = n.ID
				}
			}
			if least < 0 {
				return nil, tooFew(want.Size, want.Count-sum, 0, -1)
			}
			counts[least]++
			free[least]--
		}
	}
	var targets []pool.Target
	for _, n := range p.now.Nodes {
		if counts[n.ID] != n.Pool(want.Size).Total {
			targets = append(targets, pool.Target{Node: n.ID, Size: want.Size, Count: counts[n.ID]})
		}
	}
	return targets, nil
}

func tooFew(size bytesize.Size, missing, free uint64, node int) error {
	if node < 0 {
		return fmt.Errorf("%w now: free memory lacks %d pages of %v", ErrRequest, missing, size)
	}
	return fmt.Errorf("%w now: node %d needs %d more pages of %v and has free memory for %d", ErrRequest, node, missing, size, free)
}

// short says which pools are smaller than asked.
func (p *Plan) short(s pool.State) string {
	var list []string
	for _, want := range p.Need.Pools {
		if is := s.Total(want.Size); is.Total < want.Count {
			list = append(list, fmt.Sprintf("%d of %d pages of %v are there", is.Total, want.Count, want.Size))
			continue
		}
		for node, count := range want.Nodes {
			if n, _ := s.Node(node); n.Pool(want.Size).Total < count {
				list = append(list, fmt.Sprintf("%d of %d pages of %v are on node %d", n.Pool(want.Size).Total, count, want.Size, node))
			}
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// explainDefault: the kernel takes its default size from its command line and from nowhere else.
func (p *Plan) explainDefault() {
	if p.now.Default == p.Need.PageSize {
		return
	}
	if p.request.Persist {
		p.Notes = append(p.Notes, fmt.Sprintf("%v becomes the default page size for all applications", p.Need.PageSize))
		p.Reboot = append(p.Reboot, fmt.Sprintf("the kernel's default page size stays %v until then (programs that ask for hugepages without a size)", p.now.Default))
		return
	}
	p.Notes = append(p.Notes, fmt.Sprintf("the kernel's default page size stays %v: name the size where hugepages are asked for (%s)", p.now.Default, domainHint(p.Need.PageSize)))
}

func domainHint(size bytesize.Size) string {
	unit, n := "M", size/bytesize.MiB
	if size%bytesize.GiB == 0 {
		unit, n = "G", size/bytesize.GiB
	}
	return fmt.Sprintf("<hugepages><page size='%d' unit='%s'/></hugepages>", n, unit)
}

// remember makes the record, which keeps what was there before the first time.
func (p *Plan) remember() error {
	old, err := p.host.load()
	if err != nil {
		return err
	}
	r := record{Version: 1}
	if old != nil {
		r = *old
	}
	r.Default, r.Asked = p.Need.PageSize, p.Need.Pools
	r.Persist = r.Persist || p.request.Persist
	r.Wanted = []mount.Mount{{Path: mount.Default, Size: p.Need.PageSize}}
	if p.Need.Mount != nil {
		r.Wanted = append(r.Wanted, *p.Need.Mount)
	}
	if r.Loader == "" && !p.Boot.Empty() {
		r.Loader, r.Before = p.Boot.Loader, p.Boot.Before
	}
	if len(p.Boot.Commands) == 0 && p.request.Persist {
		p.Boot.Commands = r.Pending // the last run was cut off before them
	}
	r.Pending = p.Boot.Commands
	p.record = r
	return nil
}
