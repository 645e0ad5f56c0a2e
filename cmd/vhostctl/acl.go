package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"vhostkit/libvirt/acl"
	"vhostkit/templates/edit"
)

const aclDescription = `Lets libvirt's QEMU processes reach the switch: installs qemu-wrap beside QEMU, with QEMU's owner and mode, and adds what AppArmor,
   udev, SELinux and libvirt's qemu.conf need. The devices of vhost-cuse are added to qemu.conf's list; --device none leaves it alone, which is enough for vhost-user.
   QEMU stays unprivileged: --as-root is there for set-ups by the guide to DPDK's vhost sample, and is not needed.

EXAMPLES
   Look first:                            vhostctl install-acl --dry-run
   All of it:                             sudo vhostctl install-acl --restart
   Two devices of switchd:                sudo vhostctl install-acl --device /dev/usvhost --device /dev/usvhost1 --restart
   For vhost-user alone:                  sudo vhostctl install-acl --device none --restart
   Everything as it was:                  sudo vhostctl install-acl --undo`

// ACLCommand installs what libvirt's QEMUs need.
func ACLCommand() *cli.Command {
	return &cli.Command{
		Name: "install-acl", Usage: "let libvirt's QEMU processes reach the switch", Description: aclDescription, Action: installACL,
		Flags: append(outputFlags(),
			&cli.StringSliceFlag{Name: "device", Usage: "vhost-cuse device `PATH` that QEMU may open, or none; repeatable (default: /dev/usvhost)"},
			&cli.BoolFlag{Name: "as-root", Usage: "QEMU runs as root and keeps its capabilities (user, group, clear_emulator_capabilities)"},
			&cli.StringFlag{Name: "wrapper", Usage: "`PATH` where qemu-wrap is installed; empty: not at all", Value: "/usr/bin/qemu-wrap"},
			&cli.StringFlag{Name: "source", Usage: "the qemu-wrap `FILE` to install (default: beside vhostctl)"},
			&cli.BoolFlag{Name: "restart", Usage: "restart libvirt afterwards"},
			&cli.BoolFlag{Name: "undo", Usage: "put everything back as it was"},
			&cli.BoolFlag{Name: "force", Usage: "with --undo: also files that were changed since"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would be done, do nothing"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			&cli.StringFlag{Name: "root", Usage: "work on the system below this `DIR`; commands are shown, not run"}),
	}
}

func installACL(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	system := acl.System{
		Store: edit.Store{Root: c.String("root")},
		Run: func(argv ...string) (string, error) {
			out, err := exec.CommandContext(c.Context, argv[0], argv[1:]...).CombinedOutput()
			return string(out), err
		},
		Find: func(program string) bool {
			_, err := exec.LookPath(program)
			return err == nil && c.String("root") == ""
		},
	}
	plan, err := prepareACL(c, system)
	if errors.Is(err, acl.ErrOptions) {
		return &usageError{err}
	}
	if err != nil {
		return err
	}
	text := c.String("output") != "json"
	if text {
		printACL(os.Stdout, plan)
	}
	if plan.Empty() || c.Bool("dry-run") {
		return show(c, plan, func(io.Writer, *acl.Plan) {})
	}
	if err := confirm(c, "Do this?"); err != nil {
		return err
	}
	err = plan.Apply(func(line string) {
		if text {
			fmt.Println(line)
		}
	})
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (try sudo)", err)
	}
	if err != nil {
		return err
	}
	return show(c, plan, func(io.Writer, *acl.Plan) {})
}

func prepareACL(c *cli.Context, system acl.System) (*acl.Plan, error) {
	if c.Bool("undo") {
		plan, err := acl.Undo(system, c.Bool("force"), c.Bool("restart"))
		if errors.Is(err, edit.ErrChanged) {
			err = fmt.Errorf("%w (--force puts the originals back all the same)", err)
		}
		return plan, err
	}
	source := c.String("source")
	if source == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		source = filepath.Join(filepath.Dir(self), "qemu-wrap")
	}
	return acl.Prepare(system, acl.Options{
		Devices: devices(c), AsRoot: c.Bool("as-root"), Wrapper: c.String("wrapper"), Source: source, Restart: c.Bool("restart"),
	})
}

func printACL(w io.Writer, p *acl.Plan) {
	if p.Empty() {
		fmt.Fprintln(w, "no change: everything is in place")
	} else {
		fmt.Fprint(w, p.Diff())
		for _, line := range p.Changes {
			fmt.Fprintln(w, "*", line)
		}
		for _, command := range p.Commands {
			fmt.Fprintf(w, "* run %v: %s\n", command.Argv, command.Why)
		}
	}
	for _, n := range p.Notes {
		fmt.Fprintln(w, "note:", n)
	}
}

// devices are the vhost-cuse devices: those named, or that of the guide to DPDK's vhost sample.
func devices(c *cli.Context) []string {
	switch list := c.StringSlice("device"); {
	case len(list) == 0:
		return []string{"/dev/usvhost"}
	case slices.Contains(list, "none"):
		return nil
	default:
		return list
	}
}
