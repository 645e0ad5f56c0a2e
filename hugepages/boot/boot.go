// Package boot finds out how a system keeps its kernel command line, and plans the change of it: files to edit, and commands that carry the
// change into what the boot loader reads.
package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vhostkit/hugepages/kernelargs"
	"vhostkit/internal/sysedit"
)

// ErrNoLoader says that no known way of keeping the command line was found.
var ErrNoLoader = errors.New("no known boot loader configuration was found")

// Kind is a way of keeping the command line.
type Kind string

// Kinds.
const (
	OSTree      Kind = "rpm-ostree"   // rpm-ostree kargs
	Kernelstub  Kind = "kernelstub"   // Pop!_OS
	GRUB        Kind = "grub"         // /etc/default/grub, and boot loader entries where GRUB reads them
	SystemdBoot Kind = "systemd-boot" // /etc/kernel/cmdline and boot loader entries
	Grubby      Kind = "grubby"       // no file to edit, but grubby
)

// Runner runs programs of the system.
type Runner interface {
	// Has tells whether a program is there.
	Has(name string) bool
	// Run returns its standard output. A program that fails is an error with what it said.
	Run(ctx context.Context, argv ...string) (string, error)
}

// System runs programs for real.
type System struct{}

// Has looks in PATH, and in the directories of the administrator's programs.
func (System) Has(name string) bool { return find(name) != "" }

func find(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// commandTimeout bounds generators: os-prober can take minutes on many disks.
const commandTimeout = 10 * time.Minute

// Run runs a program in the C locale, for at most ten minutes.
func (System) Run(ctx context.Context, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	path := find(argv[0])
	if path == "" {
		return "", fmt.Errorf("%s is not installed", argv[0])
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin") // update-grub calls others by name
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, lastLine(messages.String()+out.String()))
	}
	return out.String(), nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// Host is the system.
type Host struct {
	Root    string // put before each path
	Runner  Runner
	Release string // of the running kernel
}

// Plan is the change of the command line.
type Plan struct {
	Loader Kind
	Files  []sysedit.File // to change first
	// Commands are to run after the files have changed, also when they are put back.
	Commands [][]string
	// Revert are to run instead of Commands to go back, where the change is not in files.
	Revert [][]string
	// Before are the parameters about hugepages as they were.
	Before []string
	Notes  []string
}

// Empty tells that everything says already what is wanted.
func (p Plan) Empty() bool { return len(p.Files) == 0 && len(p.Commands) == 0 }

// Detect finds out what this system uses.
func (h Host) Detect() (Kind, error) {
	switch {
	case h.exists("/run/ostree-booted") && h.Runner.Has("rpm-ostree"):
		return OSTree, nil
	case h.exists(kernelstubConfig) && h.Runner.Has("kernelstub"):
		return Kernelstub, nil
	case h.systemdBooted() && (h.exists(kernelCmdline) || len(h.entries()) > 0):
		return SystemdBoot, nil
	case h.exists(defaultGRUB):
		return GRUB, nil
	case h.exists(kernelCmdline) || len(h.entries()) > 0:
		return SystemdBoot, nil
	case h.Runner.Has("grubby"):
		return Grubby, nil
	case h.exists("/boot/grub") || h.exists("/boot/grub2"):
		return GRUB, nil
	}
	return "", ErrNoLoader
}

// Plan works out the change.
func (h Host) Plan(ctx context.Context, w kernelargs.Wanted) (Plan, error) {
	kind, err := h.Detect()
	if err != nil {
		return Plan{}, fmt.Errorf("%w: add this to the kernel's command line by hand: %v (--runtime reserves now, without it)", err, w)
	}
	var p Plan
	switch kind {
	case GRUB:
		p, err = h.grub(w)
	case SystemdBoot:
		p, err = h.systemdBoot(w)
	default:
		p, err = h.command(ctx, kind, w)
	}
	p.Loader = kind
	return p, err
}

// Run carries out commands, one after the other.
func (h Host) Run(ctx context.Context, commands [][]string) error {
	for _, argv := range commands {
		if _, err := h.Runner.Run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

func (h Host) path(path string) string { return filepath.Join(h.Root, path) }

func (h Host) exists(path string) bool {
	_, err := os.Stat(h.path(path))
	return err == nil
}

// read is a file's content, and nothing where there is none.
func (h Host) read(path string) ([]byte, error) {
	data, err := os.ReadFile(h.path(path))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// glob lists paths without the root.
func (h Host) glob(pattern string) []string {
	list, _ := filepath.Glob(h.path(pattern))
	for i, path := range list {
		list[i] = "/" + strings.TrimPrefix(strings.TrimPrefix(path, filepath.Clean("/"+h.Root)), "/")
	}
	slices.Sort(list)
	return list
}

func file(path string, content []byte) sysedit.File {
	return sysedit.File{Path: path, Content: content, Mode: 0o644, UID: -1, GID: -1}
}
