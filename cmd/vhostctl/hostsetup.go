package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"vhostkit/cmd/vhostctl/change"
	"vhostkit/internal/sysedit"
	"vhostkit/libvirt/hostsetup"
)

const hostSetupDescription = `Lets libvirt's QEMU processes reach the switch: installs qemu-wrap beside QEMU, with QEMU's owner and mode, and adds what AppArmor,
   udev, SELinux and libvirt's qemu.conf need. The devices of vhost-cuse are added to qemu.conf's list; --device none leaves it alone, which is enough for vhost-user.
   QEMU stays unprivileged: --as-root is there for set-ups by the guide to DPDK's vhost sample, and is not needed.

EXAMPLES
   Preview:                               vhostctl host setup --dry-run
   All of it:                             sudo vhostctl host setup --restart
   Two devices of switchd:                sudo vhostctl host setup --device /dev/usvhost --device /dev/usvhost1 --restart
   For vhost-user alone:                  sudo vhostctl host setup --device none --restart
   Undo:                                  sudo vhostctl host setup --undo`

// HostCommand sets the host up.
func HostCommand() *cli.Command {
	return &cli.Command{
		Name: "host", Usage: "set this host up for libvirt's QEMU processes", Action: unknownVerb("host"),
		Subcommands: []*cli.Command{hostSetupCommand("setup")},
	}
}

// formerly makes a command answer to the name that it had; help does not show it.
func formerly(c *cli.Command) *cli.Command {
	c.Hidden = true
	return c
}

// hostSetupCommand installs what libvirt's QEMU processes need.
func hostSetupCommand(name string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: "let libvirt's QEMU processes reach the switch", Description: hostSetupDescription, Action: setupHost,
		Flags: append(outputFlags(),
			&cli.StringSliceFlag{Name: "device", Usage: "vhost-cuse device `PATH` that QEMU may open, or none; repeatable (default: /dev/usvhost)"},
			&cli.BoolFlag{Name: "as-root", Usage: "QEMU runs as root and keeps its capabilities (user, group, clear_emulator_capabilities)"},
			&cli.StringFlag{Name: "wrapper", Usage: "`PATH` where qemu-wrap is installed; empty: not at all", Value: "/usr/bin/qemu-wrap"},
			&cli.StringFlag{Name: "source", Usage: "the qemu-wrap `FILE` to install (default: beside vhostctl)"},
			&cli.BoolFlag{Name: "restart", Usage: "restart libvirt afterwards"},
			&cli.BoolFlag{Name: "undo", Usage: "undo everything that was set up"},
			&cli.BoolFlag{Name: "force", Usage: "with --undo: also revert files that were edited after vhostctl wrote them"},
			&cli.BoolFlag{Name: "dry-run", Usage: "preview: show what would be done, do nothing"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			&cli.StringFlag{Name: "root", Usage: "work on the system below this `DIR`; commands are shown, not run"}),
	}
}

func setupHost(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	system := hostsetup.System{
		Store: sysedit.Store{Root: c.String("root")},
		Run: func(argv ...string) (string, error) {
			out, err := exec.CommandContext(c.Context, argv[0], argv[1:]...).CombinedOutput()
			return string(out), err
		},
		Find: func(program string) bool {
			_, err := exec.LookPath(program)
			return err == nil && c.String("root") == ""
		},
	}
	plan, err := prepareHostSetup(c, system)
	if errors.Is(err, hostsetup.ErrOptions) {
		return &usageError{err}
	}
	if err != nil {
		return change.Explain(err)
	}
	return runChange(c, change.Change{
		Empty:  plan.Empty(),
		Show:   func(w io.Writer) { printHostSetup(w, plan) },
		Apply:  func(_ context.Context, progress func(string)) error { return plan.Apply(progress) },
		Report: func(io.Writer, bool) {},
		Result: func(bool) any { return plan },
	})
}

func prepareHostSetup(c *cli.Context, system hostsetup.System) (*hostsetup.Plan, error) {
	if c.Bool("undo") {
		return hostsetup.Undo(system, c.Bool("force"), c.Bool("restart"))
	}
	source := c.String("source")
	if source == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		source = filepath.Join(filepath.Dir(self), "qemu-wrap")
	}
	return hostsetup.Prepare(system, hostsetup.Options{
		Devices: devices(c), AsRoot: c.Bool("as-root"), Wrapper: c.String("wrapper"), Source: source, Restart: c.Bool("restart"),
	})
}

func printHostSetup(w io.Writer, p *hostsetup.Plan) {
	if p.Empty() {
		fmt.Fprintln(w, "nothing to do, already configured")
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
