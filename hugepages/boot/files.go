package boot

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"vhostkit/hugepages/bls"
	"vhostkit/hugepages/grub"
	"vhostkit/hugepages/kernelargs"
)

const (
	defaultGRUB   = "/etc/default/grub"
	kernelCmdline = "/etc/kernel/cmdline"
	loaderInfo    = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// grub plans for GRUB's generator, and for the boot loader entries that GRUB reads on Fedora and its kin.
func (h Host) grub(w kernelargs.Wanted) (Plan, error) {
	config, err := h.grubConfig()
	if err != nil {
		return Plan{}, byHand(err, w)
	}
	p := Plan{Before: kernelargs.Parameters(config.CommandLine())}
	changed, err := config.Change(w)
	if err != nil {
		return Plan{}, byHand(err, w)
	}
	for _, s := range changed {
		p.Files = append(p.Files, file(s.Path, s.Content))
	}
	if config.CRLF {
		p.Notes = append(p.Notes, "lines of GRUB's settings end as on DOS: a shell takes that as part of the values")
	}
	if config.Value("GRUB_ENABLE_BLSCFG") == "true" {
		if err := h.entryFiles(&p, h.glob("/boot/loader/entries/*.conf"), w); err != nil {
			return Plan{}, err
		}
	}
	if err := h.cmdlineFile(&p, w); err != nil {
		return Plan{}, err
	}
	if len(p.Files) > 0 {
		p.Commands, err = h.generators()
	}
	return p, err
}

// byHand adds what to write to an error about GRUB's settings.
func byHand(err error, w kernelargs.Wanted) error {
	return fmt.Errorf("%w; add this line by hand at the end of %s, and run update-grub or grub2-mkconfig: %s=\"$%s %v\"", err, defaultGRUB,
		grub.Linux, grub.Linux, w)
}

// grubConfig reads the settings in the order of the generator. Debian and its kin also read a directory.
func (h Host) grubConfig() (*grub.Config, error) {
	paths := []string{defaultGRUB}
	release, err := h.read("/etc/os-release")
	if err != nil {
		return nil, err
	}
	if h.Runner.Has("update-grub") || bytes.Contains(release, []byte("debian")) || bytes.Contains(release, []byte("ubuntu")) {
		paths = append(paths, h.glob("/etc/default/grub.d/*.cfg")...)
	}
	var sources []grub.Source
	for _, path := range paths {
		content, err := h.read(path)
		if err != nil {
			return nil, err
		}
		sources = append(sources, grub.Source{Path: path, Content: content})
	}
	return grub.Parse(sources...)
}

// generators are the commands that write GRUB's configuration. A configuration on the EFI partition is written only where it is a whole
// one: newer systems have a stub there that must stay.
func (h Host) generators() ([][]string, error) {
	if h.Runner.Has("update-grub") {
		return [][]string{{"update-grub"}}, nil
	}
	for _, g := range []struct{ program, config string }{{"grub2-mkconfig", "/boot/grub2/grub.cfg"}, {"grub-mkconfig", "/boot/grub/grub.cfg"}} {
		if !h.Runner.Has(g.program) {
			continue
		}
		var commands [][]string
		for _, path := range append([]string{g.config}, h.glob("/boot/efi/EFI/*/grub.cfg")...) {
			if content, err := h.read(path); err == nil && bytes.Contains(content, []byte("### BEGIN /etc/grub.d/")) {
				commands = append(commands, []string{g.program, "-o", path})
			}
		}
		if commands == nil {
			commands = [][]string{{g.program, "-o", g.config}}
		}
		return commands, nil
	}
	return nil, fmt.Errorf("%s is there, but none of update-grub, grub2-mkconfig and grub-mkconfig: install GRUB's tools", defaultGRUB)
}

// entryFiles adds boot loader entries. The rescue entry stays as it is: it is the way back should the reservation be too much.
func (h Host) entryFiles(p *Plan, paths []string, w kernelargs.Wanted) error {
	for _, path := range paths {
		if strings.Contains(filepath.Base(path), "-0-rescue") {
			continue
		}
		content, err := h.read(path)
		if err != nil {
			return err
		}
		var changed []byte
		entry, err := bls.ParseEntry(content)
		if err == nil {
			if entry.Indirect() {
				continue // its options are in GRUB's environment, which the generator writes
			}
			if len(p.Before) == 0 {
				p.Before = kernelargs.Parameters(entry.CommandLine())
			}
			changed, err = entry.Change(w)
		}
		if err != nil {
			return fmt.Errorf("%s: %w; add this to its options by hand: %v", path, err, w)
		}
		if changed != nil {
			p.Files = append(p.Files, file(path, changed))
		}
	}
	return nil
}

// cmdlineFile adds /etc/kernel/cmdline, which kernel-install gives to new kernels. It is not made where there is none.
func (h Host) cmdlineFile(p *Plan, w kernelargs.Wanted) error {
	if !h.exists(kernelCmdline) {
		return nil
	}
	content, err := h.read(kernelCmdline)
	if err != nil {
		return err
	}
	line, err := bls.CommandLine(content)
	if err == nil && len(p.Before) == 0 {
		p.Before = kernelargs.Parameters(line)
	}
	changed, err := bls.ChangeCommandLine(content, w)
	if err != nil {
		return fmt.Errorf("%s: %w; add this to it by hand: %v", kernelCmdline, err, w)
	}
	if changed != nil {
		p.Files = append(p.Files, file(kernelCmdline, changed))
	}
	return nil
}

// systemdBooted tells whether systemd-boot started this system: a variable of the firmware names the boot loader, in UTF-16.
func (h Host) systemdBooted() bool {
	content, err := h.read(loaderInfo)
	return err == nil && strings.HasPrefix(string(bytes.ReplaceAll(content[min(4, len(content)):], []byte{0}, nil)), "systemd-boot")
}

// entries lists the boot loader entries, wherever $BOOT is.
func (h Host) entries() []string {
	var list []string
	for _, boot := range []string{"/efi", "/boot", "/boot/efi"} {
		for _, path := range h.glob(boot + "/loader/entries/*.conf") {
			if !slices.Contains(list, path) {
				list = append(list, path)
			}
		}
	}
	return list
}

// systemdBoot plans for entries that systemd-boot reads as they are. Where there are only unified kernels, which carry their command line
// inside, they are made again.
func (h Host) systemdBoot(w kernelargs.Wanted) (Plan, error) {
	var p Plan
	entries := h.entries()
	if err := h.entryFiles(&p, entries, w); err != nil {
		return Plan{}, err
	}
	if err := h.cmdlineFile(&p, w); err != nil {
		return Plan{}, err
	}
	switch {
	case len(p.Files) == 0:
	case h.Runner.Has("sdbootutil"):
		p.Commands = [][]string{{"sdbootutil", "update-all-entries"}}
	case len(entries) == 0 && h.Runner.Has("kernel-install"):
		p.Commands = [][]string{{"kernel-install", "add", h.Release, "/lib/modules/" + h.Release + "/vmlinuz"}}
	case len(entries) == 0:
		return Plan{}, fmt.Errorf("%s is there, but no boot loader entry and no kernel-install: make the boot image again by hand after adding %v",
			kernelCmdline, w)
	}
	return p, nil
}
