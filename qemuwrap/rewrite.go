package qemuwrap

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
)

// Switch is what the wrapper wants of a running switchd.
type Switch interface {
	// Plug gives the path of the vhost-user socket of the named port, which is made if it is not there.
	Plug(ctx context.Context, name string) (socket string, err error)
	// OpenDevice has switchd open a vhost-cuse device. The descriptor survives exec.
	OpenDevice(ctx context.Context, path string) (fd int, err error)
}

// System is what the wrapper looks at. Tests replace it.
type System struct {
	FS       fs.FS                                 // /proc and /sys
	Writable func(dir string) bool                 // may this user make files there?
	Open     func(path string) (fd int, err error) // opens a device for reading and writing; the descriptor survives exec
	Switch   Switch
	Version  func() Version // of the QEMU to be started; asked at most once
	DryRun   bool           // ports are not made, devices not opened
}

// Result is a rewritten command line.
type Result struct {
	Args    []string // without the program's name
	Reasons []string // why each change was made
	Probe   bool     // passed as it is
}

// rewriter is one command line being rewritten.
type rewriter struct {
	ctx     context.Context
	config  Config
	system  System
	options []option
	reasons []string
	front   []option // to go before everything: behind an option that lacks its value they would be taken for it
	version *Version

	rewritten map[string]bool // netdevs that are on the switch now
	names     map[string]bool // of ports, used in this line
}

// Rewrite makes the command line for QEMU. Whatever is wrong is an error before QEMU is touched.
func Rewrite(ctx context.Context, c Config, s System, args []string) (Result, error) {
	options := parse(args)
	if isProbe(options) {
		return Result{Args: args, Reasons: []string{"somebody asks what this QEMU can do: passed as it is"}, Probe: true}, nil
	}
	r := &rewriter{ctx: ctx, config: c, system: s, options: options, rewritten: map[string]bool{}, names: map[string]bool{}}
	if err := r.networks(); err != nil {
		return Result{}, err
	}
	onSwitch := len(r.rewritten) > 0
	if onSwitch {
		if err := r.offloads(); err != nil {
			return Result{}, err
		}
	}
	if onSwitch || c.UseHugeAll {
		if err := r.memory(); err != nil {
			return Result{}, err
		}
	}
	r.extra("emul_opts_user", c.EmulOptsUser)
	if onSwitch {
		r.extra("emul_opts_user_vhost", c.EmulOptsUserVhost)
	}
	return Result{Args: append(join(r.front), join(r.options)...), Reasons: r.reasons}, nil
}

// extra puts the operator's own options before the others, where the script put them.
func (r *rewriter) extra(setting string, words []string) {
	if len(words) > 0 {
		r.front = append(r.front, option{tokens: words})
		r.because("%s: added because %s says so", strings.Join(words, " "), setting)
	}
}

func (r *rewriter) because(format string, args ...any) {
	r.reasons = append(r.reasons, fmt.Sprintf(format, args...))
}

// qemu is QEMU's version, asked for when it first matters.
func (r *rewriter) qemu() Version {
	if r.version == nil {
		v := r.system.Version()
		r.version = &v
	}
	return *r.version
}

// guest is the machine's name (-name), or "qemu".
func (r *rewriter) guest() string {
	name := "qemu"
	for _, o := range r.options {
		if !o.is("name") {
			continue
		}
		if k, err := parseKeyval(o.value(), "guest"); err == nil && k.text("guest") != "" {
			name = k.text("guest")
		}
	}
	return name
}

// insert puts options before the one at i.
func (r *rewriter) insert(i int, o ...option) {
	r.options = append(r.options[:i:i], append(o, r.options[i:]...)...)
}

// remove takes the option at i out.
func (r *rewriter) remove(i int) { r.options = append(r.options[:i:i], r.options[i+1:]...) }
