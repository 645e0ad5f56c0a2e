package hugepages

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/mount"
)

// planMounts finds which mounts are missing. The default one gets the guests' page size now, without a reboot, if nobody uses it.
func (p *Plan) planMounts() error {
	table, err := p.host.mounts(p.now)
	if err != nil {
		return err
	}
	if len(table.Of(p.Need.PageSize)) == 0 {
		if err := p.defaultMount(table); err != nil {
			return err
		}
	}
	if p.Need.Mount != nil {
		return p.switchMount(table)
	}
	return nil
}

func (p *Plan) defaultMount(table mount.Table) error {
	m := mount.Mount{Path: p.host.at(mount.Default), Size: p.Need.PageSize}
	old, mounted := table.At(m.Path)
	if other := table.Other(m.Path); other != "" {
		return fmt.Errorf("%w: %s is mounted at %s", ErrRequest, other, m.Path)
	}
	if !mounted {
		p.Mounts = append(p.Mounts, madeMount{Mount: m})
		return nil
	}
	busy, err := p.host.Mounter.Files(m.Path)
	if err != nil {
		return fmt.Errorf("looking for files in %s: %w", m.Path, err)
	}
	if busy {
		p.Mounts = append(p.Mounts, madeMount{Mount: p.beside(m.Size)})
		p.Notes = append(p.Notes, fmt.Sprintf("%s has files with pages of %v and stays until the reboot; pages of %v are mounted at %s", m.Path, old.Size,
			m.Size, p.host.at(besidePath(m.Size))))
		return nil
	}
	m.Options = old.Options
	p.Mounts = append(p.Mounts, madeMount{Mount: m, Replaced: &old})
	p.Notes = append(p.Notes, fmt.Sprintf("nobody uses %s: it gives pages of %v from now on; libvirt sees it after: systemctl restart libvirtd", m.Path, m.Size))
	return nil
}

func besidePath(size bytesize.Size) string { return mount.Default + size.String() }

func (p *Plan) beside(size bytesize.Size) mount.Mount {
	return mount.Mount{Path: p.host.at(besidePath(size)), Size: size}
}

func (p *Plan) switchMount(table mount.Table) error {
	m := mount.Mount{Path: p.host.at(p.Need.Mount.Path), Size: p.Need.Mount.Size}
	if other := table.Other(m.Path); other != "" {
		return fmt.Errorf("%w: %s is mounted at %s; choose another directory with --mount", ErrRequest, other, m.Path)
	}
	old, mounted := table.At(m.Path)
	switch {
	case !mounted:
		p.Mounts = append(p.Mounts, madeMount{Mount: m})
		return nil
	case old.Size == m.Size:
		return nil
	}
	busy, err := p.host.Mounter.Files(m.Path)
	if err != nil {
		return fmt.Errorf("looking for files in %s: %w", m.Path, err)
	}
	if busy {
		return fmt.Errorf("%w: %s has pages of %v and files in it; choose another directory with --mount", ErrRequest, m.Path, old.Size)
	}
	p.Mounts = append(p.Mounts, madeMount{Mount: m, Replaced: &old})
	return nil
}

// at is a path of this system.
func (h Host) at(path string) string { return filepath.Join(h.Store.Root, path) }

// makeMounts makes mounts, all or none. A default mount that turns out to be busy gets one beside it.
func (p *Plan) makeMounts() ([]madeMount, error) {
	var done []madeMount
	for _, m := range p.Mounts {
		if m.Replaced != nil {
			err := p.host.Mounter.Unmount(m.Path, false)
			if errors.Is(err, mount.ErrBusy) && m.Path == p.host.at(mount.Default) {
				m = madeMount{Mount: p.beside(m.Size)}
			} else if err != nil {
				return nil, errors.Join(err, p.host.unmount(done))
			}
		}
		directory, err := p.host.Mounter.Mount(m.Mount)
		if err != nil {
			if m.Replaced != nil {
				_, again := p.host.Mounter.Mount(*m.Replaced)
				err = errors.Join(err, again)
			}
			return nil, errors.Join(err, p.host.unmount(done))
		}
		m.Directory = directory
		done = append(done, m)
	}
	return done, nil
}

// unmount takes mounts back, the last first.
func (h Host) unmount(list []madeMount) error {
	var all error
	for i := len(list) - 1; i >= 0; i-- {
		m := list[i]
		if err := h.Mounter.Unmount(m.Path, m.Directory); err != nil {
			all = errors.Join(all, err)
			continue
		}
		if m.Replaced != nil {
			_, err := h.Mounter.Mount(*m.Replaced)
			all = errors.Join(all, err)
		}
	}
	return all
}

// makePoints makes the mount points of /etc/fstab: systemd makes missing ones, others do not. It returns those that were not there.
func (h Host) makePoints(points []string) ([]string, error) {
	var made []string
	for _, path := range points {
		if _, err := os.Stat(h.at(path)); err == nil {
			continue
		}
		if err := os.MkdirAll(h.at(path), 0o755); err != nil {
			h.removePoints(made)
			return nil, fmt.Errorf("mount point: %w", err)
		}
		made = append(made, path)
	}
	return made, nil
}

// removePoints removes mount points that are empty.
func (h Host) removePoints(points []string) {
	for _, path := range points {
		_ = os.Remove(h.at(path))
	}
}
