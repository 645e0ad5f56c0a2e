// Package acl installs what libvirt's QEMU processes need to reach the switch: qemu.conf, a udev rule, AppArmor's and SELinux' rules, and
// the wrapper beside QEMU. It is planned first, done in one step, and can be undone.
package acl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vhostkit/libvirt/qemuconf"
	"vhostkit/templates"
	"vhostkit/templates/edit"
)

// name of the edits in the store.
const name = "install-acl"

// Files that are changed or made.
const (
	qemuConf      = "/etc/libvirt/qemu.conf"
	udevRules     = "/etc/udev/rules.d/60-vhostkit.rules"
	appArmor      = "/etc/apparmor.d"
	appArmorQEMU  = "/etc/apparmor.d/local/abstractions/libvirt-qemu"
	appArmorLocal = "/etc/apparmor.d/local/"
	wrapperConfig = "/etc/vhostkit/qemu-wrap.toml"
)

// Options say what to install.
type Options struct {
	Devices []string // vhost-cuse devices that libvirt and QEMU may open
	AsRoot  bool     // QEMU runs as root with its capabilities, as the old guide has it
	Wrapper string   // where the wrapper goes; empty: none
	Source  string   // the wrapper's file
	Restart bool     // restart libvirt afterwards
}

// System is where it is installed. Tests replace it.
type System struct {
	Store edit.Store
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

	edits *edit.Plan
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
	files   []edit.File
	plan    *Plan
}

// Prepare works out what has to be done. Nothing is changed.
func Prepare(s System, o Options) (*Plan, error) {
	p := &planner{system: s, options: o, plan: &Plan{Files: []string{}, Changes: []string{}, Commands: []Command{}, Notes: []string{}, run: s.Run}}
	for _, step := range []func() error{p.qemuConf, p.udev, p.wrapper, p.appArmor} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	edits, err := s.Store.Plan(name, p.files...)
	if err != nil {
		return nil, err
	}
	p.plan.edits, p.plan.Files = edits, append(p.plan.Files, edits.Paths()...)
	p.cgroups() // before libvirt is restarted
	if !edits.Empty() {
		p.commands()
	} else {
		p.plan.Changes = []string{}
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
		Files: append([]string{}, edits.Paths()...), Changes: []string{"everything: as it was before install-acl"}, Commands: []Command{}, Notes: []string{},
		edits: edits, run: s.Run,
	}}
	p.commands()
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
	p.files = append(p.files, edit.File{Path: path, Content: []byte(content), Mode: mode})
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
		mode, uid, gid = info.Mode().Perm(), owner[0], owner[1]
	} else {
		p.plan.Notes = append(p.plan.Notes, "no QEMU was found to take owner and mode from: the wrapper gets root's and 0755")
	}
	p.files = append(p.files, edit.File{Path: p.options.Wrapper, Content: content, Mode: mode, UID: uid, GID: gid, ForceMode: true})
	p.plan.Changes = append(p.plan.Changes, p.options.Wrapper+": the wrapper, with QEMU's owner and mode")
	if !p.exists(wrapperConfig) {
		p.put(wrapperConfig, templates.QEMUWrapConfig, 0o644)
		p.plan.Changes = append(p.plan.Changes, wrapperConfig+": its settings, all at their defaults")
	} else if text, err := p.read(wrapperConfig); err == nil {
		p.put(wrapperConfig, text, 0) // stays as it is, and is not forgotten by a second run
	}
	return nil
}

// emulator is QEMU's file.
func (p *planner) emulator() (fs.FileInfo, [2]int, error) {
	for _, path := range []string{"/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm", "/usr/bin/qemu-system-aarch64"} {
		if info, err := os.Stat(p.path(path)); err == nil {
			return info, owner(info), nil
		}
	}
	return nil, [2]int{}, fs.ErrNotExist
}

// appArmor allows QEMU's profile what the wrapper and the switch need.
func (p *planner) appArmor() error {
	if !p.exists(appArmor) {
		return nil
	}
	devices := ""
	for _, d := range p.options.Devices {
		devices += d + " rw,\n  "
	}
	wrapper := p.options.Wrapper
	if wrapper == "" {
		wrapper = "/usr/bin/qemu-wrap"
	}
	fill := strings.NewReplacer("@WRAPPER@", wrapper, "  @DEVICES@\n", strings.TrimRight("  "+devices, " ")).Replace
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
			return fmt.Errorf("%s has the line %q without %q: repair it by hand", path, strings.TrimSpace(blockBegin), strings.TrimSpace(blockEnd))
		}
		before, after = text[:i], text[i+n+len(blockEnd):]
	} else if text != "" && !strings.HasSuffix(text, "\n") {
		before += "\n"
	}
	p.put(path, before+blockBegin+lines+blockEnd+after, 0o644)
	p.plan.Changes = append(p.plan.Changes, path+": rules for the wrapper and the switch's sockets")
	return nil
}

// commands are what has to be run once the files are changed.
func (p *planner) commands() {
	add := func(why string, argv ...string) {
		if p.system.Find(argv[0]) {
			p.plan.Commands = append(p.plan.Commands, Command{argv, why})
		} else {
			p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("run %s: %s", strings.Join(argv, " "), why))
		}
	}
	if len(p.options.Devices) > 0 {
		add("so that udev knows the new rule", "udevadm", "control", "--reload")
	}
	if p.exists(appArmor + "/usr.sbin.libvirtd") {
		add("so that AppArmor knows the new rules", "apparmor_parser", "--replace", appArmor+"/usr.sbin.libvirtd")
	}
	if w := p.options.Wrapper; w != "" && p.exists("/sys/fs/selinux/enforce") {
		add("so that libvirt's domains may execute the wrapper", "semanage", "fcontext", "--add", "--type", "qemu_exec_t", w)
		add("so that the label is on the file", "restorecon", "-v", w)
	}
	unit := "libvirtd"
	if p.exists("/usr/lib/systemd/system/virtqemud.service") && !p.exists("/usr/lib/systemd/system/libvirtd.service") {
		unit = "virtqemud"
	}
	why := "so that libvirt reads qemu.conf and asks the wrapper anew what QEMU can do; running domains go on"
	if p.options.Restart {
		add(why, "systemctl", "try-restart", unit+".service")
	} else {
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("restart libvirt (systemctl restart %s, or --restart): %s", unit, why))
	}
}

// cgroups says what has to be known of the devices controller, which is another matter since cgroup v2.
func (p *planner) cgroups() {
	if len(p.options.Devices) == 0 {
		return
	}
	mounts, err := p.read("/proc/mounts")
	if err != nil {
		return
	}
	v2, devices := false, false
	for _, line := range strings.Split(mounts, "\n") {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		v2 = v2 || f[2] == "cgroup2"
		devices = devices || f[2] == "cgroup" && strings.Contains(","+f[3]+",", ",devices,")
	}
	switch {
	case devices:
	case v2:
		p.plan.Notes = append(p.plan.Notes, "cgroup v2: no devices controller has to be mounted; libvirt guards devices by eBPF, from the list in qemu.conf")
	default:
		why := "so that libvirt can guard devices by cgroup v1; for every boot, in /etc/fstab: none /dev/cgroup cgroup devices 0 0"
		p.plan.Commands = append(p.plan.Commands, Command{[]string{"mkdir", "-p", "/dev/cgroup"}, why},
			Command{[]string{"mount", "-t", "cgroup", "none", "/dev/cgroup", "-o", "devices"}, why})
	}
}
