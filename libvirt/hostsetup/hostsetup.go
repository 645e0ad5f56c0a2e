// Package hostsetup installs what libvirt's QEMU processes need to reach the switch: qemu.conf, a udev rule, AppArmor's and SELinux' rules, and
// the wrapper beside QEMU. It is planned first, done in one step, and can be undone.
package hostsetup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vhostkit/internal/sysedit"
	"vhostkit/libvirt/qemuconf"
	"vhostkit/templates"
)

// name of the edits in the store.
const name = "install-acl"

// Files that are changed or made.
const (
	qemuConf            = "/etc/libvirt/qemu.conf"
	udevRules           = "/etc/udev/rules.d/60-vhostkit.rules"
	appArmor            = "/etc/apparmor.d"
	appArmorAbstraction = "/etc/apparmor.d/abstractions/libvirt-qemu"
	appArmorQEMU        = "/etc/apparmor.d/local/abstractions/libvirt-qemu"
	appArmorLocal       = "/etc/apparmor.d/local/"
	wrapperConfig       = "/etc/vhostkit/qemu-wrap.toml"
)

// Options say what to install.
type Options struct {
	Devices []string // vhost-cuse devices that libvirt and QEMU may open
	AsRoot  bool     // QEMU runs as root with its capabilities, as the guide to DPDK's vhost sample has it
	Wrapper string   // where the wrapper goes; empty: none
	Source  string   // the wrapper's file
	Restart bool     // restart libvirt afterwards
}

// System is where it is installed. Tests replace it.
type System struct {
	Store sysedit.Store
	// Run runs a command and returns its output. It is not called for a plan.
	Run func(argv ...string) (string, error)
	// Find tells whether a program is there.
	Find func(program string) bool
}

// Command is something to be run after the files are in place.
type Command struct {
	Argv []string `json:"command"`
	Why  string   `json:"why"`
}

// Plan is what will be done.
type Plan struct {
	Files    []string  `json:"files"`
	Changes  []string  `json:"changes"`
	Commands []Command `json:"commands"`
	Notes    []string  `json:"notes"`

	edits *sysedit.Plan
	run   func(argv ...string) (string, error)
}

// Empty tells that everything is in place.
func (p *Plan) Empty() bool { return p.edits.Empty() && len(p.Commands) == 0 }

// Diff shows the changes of the files.
func (p *Plan) Diff() string { return p.edits.Diff() }

// planner collects a plan.
type planner struct {
	system  System
	options Options
	files   []sysedit.File
	plan    *Plan
	wrapped wrapConfig
	done    done // what commands have done, now or before
}

// Prepare works out what has to be done. Nothing is changed.
func Prepare(s System, o Options) (*Plan, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	p := &planner{system: s, options: o, plan: &Plan{Files: []string{}, Changes: []string{}, Commands: []Command{}, Notes: []string{}, run: s.Run}}
	for _, step := range []func() error{p.loadDone, p.readWrapConfig, p.qemuConf, p.udev, p.wrapper, p.appArmor, p.cgroups, p.seLinux, p.saveDone} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	edits, err := s.Store.Plan(name, p.files...)
	if err != nil {
		return nil, err
	}
	p.plan.edits, p.plan.Files = edits, append(p.plan.Files, edits.Paths()...)
	p.reloads()
	p.capabilityCache()
	if edits.Empty() {
		p.plan.Changes = []string{}
	} else {
		p.restart()
	}
	return p.plan, nil
}

// Undo plans the way back.
func Undo(s System, force bool, restart bool) (*Plan, error) {
	edits, err := s.Store.Undo(name, force)
	if err != nil {
		return nil, err
	}
	p := &planner{system: s, options: Options{Restart: restart}, plan: &Plan{
		Files: append([]string{}, edits.Paths()...), Changes: []string{"everything that vhostctl host setup did is undone"}, Commands: []Command{}, Notes: []string{},
		edits: edits, run: s.Run,
	}}
	if err := p.loadDone(); err != nil {
		return nil, err
	}
	p.reloads()
	p.undoCommands()
	p.restart()
	return p.plan, nil
}

// Apply changes the files, then runs the commands.
func (p *Plan) Apply(progress func(string)) error {
	if err := p.edits.Apply(); err != nil {
		return err
	}
	for _, f := range p.Files {
		progress("written: " + f)
	}
	var failed error
	for _, c := range p.Commands {
		progress(strings.Join(c.Argv, " "))
		if out, err := p.run(c.Argv...); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w: %s (the files are in place; run it by hand: %s)", strings.Join(c.Argv, " "), err,
				strings.TrimSpace(out), c.Why))
		}
	}
	return failed
}

func (p *planner) path(path string) string { return filepath.Join(p.system.Store.Root, path) }

func (p *planner) exists(path string) bool {
	_, err := os.Stat(p.path(path))
	return err == nil
}

func (p *planner) read(path string) (string, error) {
	data, err := os.ReadFile(p.path(path))
	return string(data), err
}

func (p *planner) put(path, content string, mode fs.FileMode) {
	p.files = append(p.files, sysedit.File{Path: path, Content: []byte(content), Mode: mode})
}

func (p *planner) qemuConf() error {
	text, err := p.read(qemuConf)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there: install libvirt's QEMU driver first (libvirt-daemon-system, or libvirt-daemon-driver-qemu)", qemuConf)
	}
	if err != nil {
		return err
	}
	settings := qemuconf.Settings{Devices: p.options.Devices, AsRoot: p.options.AsRoot}
	edited, changes, err := qemuconf.Edit(text, settings)
	if err != nil {
		return fmt.Errorf("%s: %w; nothing was changed; add by hand:\n%s", qemuConf, err, qemuconf.ByHand(settings))
	}
	for _, c := range changes {
		p.plan.Changes = append(p.plan.Changes, qemuConf+": "+c)
	}
	p.put(qemuConf, edited, 0)
	return nil
}

func (p *planner) udev() error {
	if len(p.options.Devices) == 0 {
		return nil
	}
	rules := templates.UdevRules
	for _, d := range p.options.Devices {
		if base := filepath.Base(d); !strings.HasPrefix(base, "usvhost") {
			rules += fmt.Sprintf("KERNEL==%q, MODE=\"0660\", GROUP=\"kvm\"\n", base)
		}
	}
	p.plan.Changes = append(p.plan.Changes, udevRules+": group kvm may open the vhost-cuse devices")
	p.put(udevRules, rules, 0o644)
	return nil
}

// wrapper puts qemu-wrap beside QEMU, with QEMU's owner and mode.
func (p *planner) wrapper() error {
	if p.options.Wrapper == "" {
		return nil
	}
	content, err := os.ReadFile(p.options.Source)
	if err != nil {
		return fmt.Errorf("the wrapper to install: %w; name it with --source, or leave it out with --wrapper ''", err)
	}
	mode, uid, gid := fs.FileMode(0o755), 0, 0
	if info, owner, err := p.emulator(); err == nil {
		if old, err := os.Stat(p.path(p.options.Wrapper)); err == nil && os.SameFile(old, info) {
			return fmt.Errorf("%w: %s is QEMU itself; the wrapper wants a path of its own", ErrOptions, p.options.Wrapper)
		}
		mode, uid, gid = info.Mode().Perm()&^0o022, owner[0], owner[1] // only its owner may change what libvirt runs
	} else {
		p.plan.Notes = append(p.plan.Notes, "no QEMU was found to take owner and mode from: the wrapper gets root's and 0755")
	}
	p.files = append(p.files, sysedit.File{Path: p.options.Wrapper, Content: content, Mode: mode, UID: uid, GID: gid, ForceMode: true})
	p.plan.Changes = append(p.plan.Changes, p.options.Wrapper+": the wrapper, with QEMU's owner and mode")
	return nil
}

// Where distributions have QEMU.
var emulators = []string{
	"/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm", "/usr/bin/qemu-system-aarch64", "/usr/local/bin/qemu-system-x86_64",
}

// emulator is QEMU's file: the one that the wrapper is told to start, or the usual one.
func (p *planner) emulator() (fs.FileInfo, [2]int, error) {
	for _, path := range append([]string{p.wrapped.Emulator}, emulators...) {
		if info, err := os.Stat(p.path(path)); path != "" && err == nil && info.Mode().IsRegular() {
			return info, owner(info), nil
		}
	}
	return nil, [2]int{}, fs.ErrNotExist
}
