package hugepages

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/go-multierror"

	"vhostkit/hugepages/pool"
	"vhostkit/internal/sysedit"
)

// Apply does what was planned: pools, mounts, files, then the commands that carry the command line to the boot loader. If something fails
// the system is put back as it was. If the kernel cannot give the pages now, and they come at the next boot, that is no failure: Reboot says
// it afterwards.
func (p *Plan) Apply(ctx context.Context) error {
	done, err := pool.Set(p.host.Kernel, p.Targets)
	if errors.Is(err, pool.ErrShort) && p.request.Persist {
		p.Reboot = append(p.Reboot, err.Error())
		err = nil
	}
	if err != nil {
		return err
	}
	mounts, err := p.makeMounts()
	if err != nil {
		return together(err, pool.Restore(p.host.Kernel, done))
	}
	points, err := p.host.makePoints(p.points)
	if err == nil {
		p.record.Points = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(p.record.Points), points...))))
		err = p.writeFiles(ctx, done, mounts)
	}
	if err != nil {
		p.host.removePoints(points)
		return together(err, p.host.unmount(mounts), pool.Restore(p.host.Kernel, done))
	}
	return nil
}

// together is an error with what went wrong on the way back.
func together(err error, also ...error) error {
	all := multierror.Append(nil, err)
	for _, e := range also {
		if e != nil {
			all = multierror.Append(all, fmt.Errorf("and undoing: %w", e))
		}
	}
	if all.Len() == 1 {
		return err
	}
	return all
}

func (p *Plan) writeFiles(ctx context.Context, done []pool.Done, mounts []madeMount) error {
	p.record.add(p.host.bootID(), done, mounts)
	file, err := p.record.file()
	if err != nil {
		return err
	}
	// The record comes first: it knows what was there before, should this be cut off.
	files, err := p.host.Store.Plan(EditName, append([]sysedit.File{file}, p.lines...)...)
	if err != nil {
		return err
	}
	if err := files.Apply(); err != nil {
		return err
	}
	boot := p.host.boot()
	if err := boot.Run(ctx, p.Boot.Commands); err != nil {
		back := p.Boot.Revert
		if back == nil {
			back = p.Boot.Commands
		}
		// The context may be why it failed: the way back does not depend on it.
		return together(fmt.Errorf("%w; all changes were undone", err), files.Revert(), ignoreSame(boot.Run(context.WithoutCancel(ctx), back), err))
	}
	return p.settle()
}

// settle notes that the commands have run.
func (p *Plan) settle() error {
	if p.record.Pending == nil {
		return nil
	}
	p.record.Pending = nil
	file, err := p.record.file()
	if err != nil {
		return err
	}
	files, err := p.host.Store.Plan(EditName, file)
	if err != nil {
		return err
	}
	return files.Apply()
}

// ignoreSame drops the error of a generator that failed before for the same reason: its files are back, and it had changed nothing.
func ignoreSame(err, before error) error {
	if err != nil && err.Error() == before.Error() {
		return nil
	}
	return err
}

// add notes what was done at run time. What was there before the first time stays noted; another boot began anew.
func (r *record) add(boot string, done []pool.Done, mounts []madeMount) {
	if r.Boot != boot && len(done)+len(mounts) > 0 {
		r.Boot, r.Mounts = boot, nil
		if !r.Persist {
			r.Pools = nil
		}
	}
	for _, d := range done {
		i := slices.IndexFunc(r.Pools, func(o pool.Done) bool { return o.Node == d.Node && o.Size == d.Size })
		if i >= 0 {
			r.Pools[i].Count = d.Count
			continue
		}
		r.Pools = append(r.Pools, d)
	}
	for _, m := range mounts {
		r.Mounts = append(slices.DeleteFunc(slices.Clone(r.Mounts), func(o madeMount) bool { return o.Path == m.Path }), m)
	}
}

// Undo plans the way back.
type Undo struct {
	host   Host
	files  *sysedit.Plan
	record *record
	now    pool.State
}

// Undo finds what was done: sysedit.ErrNothing if nothing was, sysedit.ErrChanged if files were changed by hand since and force is not set.
func (h Host) Undo(force bool) (*Undo, error) {
	r, err := h.load()
	if err != nil {
		return nil, err
	}
	files, err := h.Store.Undo(EditName, force)
	if err != nil {
		return nil, err
	}
	state, err := pool.Look(h.Kernel)
	if r == nil {
		r = &record{}
	}
	return &Undo{h, files, r, state}, err
}

// Diff shows how files change.
func (u *Undo) Diff() string { return u.files.Diff(recordPath) }

// Pools are the counts that pools go back to, as far as their pages are not in use: what was added is taken off what is there now.
func (u *Undo) Pools() []pool.Target {
	var list []pool.Target
	if u.record.Boot != u.host.bootID() && !u.record.Persist {
		return nil // they went with the boot
	}
	for _, d := range u.record.Pools {
		node, ok := u.now.Node(d.Node)
		if !ok {
			continue
		}
		is := node.Pool(d.Size)
		to := is.Total
		if d.Count > d.Before {
			to = max(min(d.Before, is.Total), is.Total-min(d.Count-d.Before, is.Total), min(is.InUse(), is.Total))
		} else if is.Total == d.Count {
			to = d.Before
		}
		if to != is.Total {
			list = append(list, pool.Target{Node: d.Node, Size: d.Size, Count: to})
		}
	}
	return list
}

// Apply goes back: files first, then mounts, pools and the boot loader. What is in use stays, and is named in the error.
func (u *Undo) Apply(ctx context.Context) error {
	if err := u.files.Apply(); err != nil {
		return err
	}
	var all *multierror.Error
	if u.record.Boot == u.host.bootID() {
		if err := u.host.unmount(u.record.Mounts); err != nil {
			all = multierror.Append(all, fmt.Errorf("%w: stop what uses it; it goes at the next boot", err))
		}
	}
	if _, err := pool.Set(u.host.Kernel, u.Pools()); err != nil {
		all = multierror.Append(all, err)
	}
	u.host.removePoints(u.record.Points)
	if u.record.Loader != "" {
		boot := u.host.boot()
		commands, err := boot.Restore(ctx, u.record.Loader, u.record.Before)
		if err == nil {
			err = boot.Run(ctx, commands)
		}
		if err != nil {
			all = multierror.Append(all, fmt.Errorf("%w: the settings are back, but the boot loader may still have the old command line", err))
		}
	}
	return all.ErrorOrNil()
}
