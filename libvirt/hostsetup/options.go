package hostsetup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// ErrOptions says that what was asked for cannot be installed.
var ErrOptions = errors.New("unsupported options")

// plainPath is what stands in rules of AppArmor and udev, and in qemu.conf, without being quoted or meaning a pattern.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9_+:@.-]+)+$`)

// check refuses paths that would mean something else in the files they are written to.
func (o *Options) check() error {
	paths := slices.Clone(o.Devices)
	if o.Wrapper != "" {
		paths = append(paths, o.Wrapper)
	}
	for _, p := range paths {
		if !plainPath.MatchString(p) || filepath.Clean(p) != p {
			return fmt.Errorf("%w: path %q: want an absolute path of letters, digits and any of _ + : @ . -", ErrOptions, p)
		}
	}
	for _, d := range o.Devices {
		if !strings.HasPrefix(d, "/dev/") {
			return fmt.Errorf("%w: device %q: want a path below /dev", ErrOptions, d)
		}
	}
	return nil
}

// doneFile remembers what was done by commands, so that it can be undone. It is one of the plan's files, and goes with the undo.
const doneFile = "/var/lib/vhostkit/install-acl.json"

type done struct {
	Label string `json:"selinux_label,omitempty"` // path that has a label rule of ours
	Mount string `json:"cgroup_mount,omitempty"`
}

func (p *planner) loadDone() error {
	text, err := p.read(doneFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &p.done)
	}
	if err != nil {
		return fmt.Errorf("reading %s, which says what to undo: %w", doneFile, err)
	}
	return nil
}

func (p *planner) saveDone() error {
	if p.done == (done{}) {
		return nil
	}
	text, err := json.Marshal(p.done)
	p.put(doneFile, string(text)+"\n", 0o600)
	return err
}

// wrapConfig is what the wrapper's configuration says about paths.
type wrapConfig struct {
	Emulator  string `toml:"emul_path"`
	Hugepages string `toml:"hugetlbfs_dir"`
}

func (p *planner) readWrapConfig() error {
	text, err := p.read(wrapperConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = toml.Unmarshal([]byte(text), &p.wrapped)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", wrapperConfig, err)
	}
	return nil
}
