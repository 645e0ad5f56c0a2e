package hostsetup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"vhostkit/internal/mntent"
	"vhostkit/templates"
)

// appArmor allows QEMU's profile what the wrapper and the switch need.
func (p *planner) appArmor() error {
	if !p.exists(appArmorAbstraction) {
		return nil // no AppArmor, or no libvirt that knows it
	}
	wrapper := p.options.Wrapper
	if wrapper == "" {
		wrapper = "/usr/bin/qemu-wrap"
	}
	if text, err := p.read(appArmorAbstraction); err == nil && !strings.Contains(text, "local/abstractions/libvirt-qemu") {
		p.plan.Notes = append(p.plan.Notes, appArmorAbstraction+" does not include its local file: add a line: include <local/abstractions/libvirt-qemu>")
	}
	fill := strings.NewReplacer("@WRAPPER@", wrapper, "  @DEVICES@\n", p.pathRules()).Replace
	if err := p.block(appArmorQEMU, fill(templates.AppArmorQEMU)); err != nil {
		return err
	}
	if dir := filepath.Dir(wrapper); dir != "/usr/bin" && dir != "/usr/sbin" {
		for _, profile := range []string{"usr.sbin.libvirtd", "usr.sbin.virtqemud"} {
			if p.exists(filepath.Join(appArmor, profile)) {
				if err := p.block(appArmorLocal+profile, fill(templates.AppArmorLibvirtd)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// pathRules are the rules for what differs from host to host: devices, another QEMU, and where hugepages are mounted.
func (p *planner) pathRules() string {
	var b strings.Builder
	for _, d := range p.options.Devices {
		fmt.Fprintf(&b, "  %s rw,\n", d)
	}
	if e := p.wrapped.Emulator; plainPath.MatchString(e) {
		fmt.Fprintf(&b, "  %s rmix,\n", e)
	}
	for _, dir := range p.hugepages() {
		fmt.Fprintf(&b, "  %s/ r,\n  owner %s/** rwk,\n", dir, dir)
	}
	return b.String()
}

// hugepages lists where hugetlbfs is mounted, and where the wrapper is told to look, sorted.
func (p *planner) hugepages() []string {
	var list []string
	if d := p.wrapped.Hugepages; d != "" {
		list = append(list, filepath.Clean(d))
	}
	mounts, _ := p.read("/proc/mounts")
	for _, m := range mntent.Mounts(mounts) {
		if m.Type == "hugetlbfs" {
			list = append(list, m.Path)
		}
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(d string) bool {
		if plainPath.MatchString(d) {
			return false
		}
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("AppArmor gets no rule for the hugepages in %q: unusual characters", d))
		return true
	})
}

// Marks around the lines that are ours in files that others own.
const (
	blockBegin = "  # vhostkit begin (vhostctl install-acl; --undo removes it)\n"
	blockEnd   = "  # vhostkit end\n"
)

// block puts lines between our marks into a file, in place of those that are there.
func (p *planner) block(path, lines string) error {
	text, err := p.read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before, after := text, ""
	if i := strings.Index(text, blockBegin); i >= 0 {
		n := strings.Index(text[i:], blockEnd)
		if n < 0 {
			return fmt.Errorf("%s has the line %q without %q: fix it by hand", path, strings.TrimSpace(blockBegin), strings.TrimSpace(blockEnd))
		}
		before, after = text[:i], text[i+n+len(blockEnd):]
	} else if text != "" && !strings.HasSuffix(text, "\n") {
		before += "\n"
	}
	p.put(path, before+blockBegin+lines+blockEnd+after, 0o644)
	p.plan.Changes = append(p.plan.Changes, path+": rules for the wrapper and the switch's sockets")
	return nil
}
