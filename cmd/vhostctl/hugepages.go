package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"vhostkit/cmd/vhostctl/change"
	"vhostkit/hugepages"
	"vhostkit/hugepages/boot"
	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/guests"
	"vhostkit/internal/sysedit"
	"vhostkit/libvirt"
)

const provisionDescription = `Reserves hugepages for guests and for the switch: now (per NUMA node, read back), with the mounts they need, and for the next boot
   (/etc/fstab, the kernel's command line, the boot loader's configuration). --runtime or --persist alone does one half.
   Existing reservations are reduced only with --exact, and pages in use never. A second run changes nothing.

EXAMPLES
   8 GiB for guests as 1G pages, 512 MiB as 2M pages beside:  sudo vhostctl hugepages provision --for-vms 8G --for-switch 512M
   2M pages for both:                     sudo vhostctl hugepages provision --page-size 2M --for-vms 4G --for-switch 512M
   What libvirt's domains need:           sudo vhostctl hugepages provision --for-domains
   By NUMA node:                          sudo vhostctl hugepages provision --node 0=4 --node 1=2
   Preview:                               vhostctl hugepages provision --for-vms 8G --dry-run
   After the reboot:                      vhostctl hugepages verify
   Undo:                                  sudo vhostctl hugepages undo`

// provisionCommand sets hugepages up.
func provisionCommand(name string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: "reserve hugepages for guests and the switch, now and at each boot", Description: provisionDescription,
		Action: provisionHugepages, Flags: append(append(outputFlags(),
			&cli.StringFlag{Name: "for-vms", Usage: "memory of all guests together, `SIZE` such as 8G"},
			&cli.BoolFlag{Name: "for-domains", Usage: "add the memory of all of libvirt's domains, each rounded up to the page"},
			&cli.StringFlag{Name: "for-switch", Usage: "`SIZE` in 2M pages of their own, for programs such as DPDK's"},
			&cli.StringFlag{Name: "page-size", Usage: "`1G|2M`, of the guests' pages (default: 1G where the processor has them)"},
			&cli.StringSliceFlag{Name: "node", Usage: "`N=COUNT` of the guests' pages on NUMA node N; repeatable"},
			&cli.StringFlag{Name: "mount", Usage: "`DIR` for the switch's pages, if they are not of the default size", Value: hugepages.DefaultMount},
			&cli.BoolFlag{Name: "persist", Usage: "only for the next boot"},
			&cli.BoolFlag{Name: "runtime", Usage: "only now"},
			&cli.BoolFlag{Name: "exact", Usage: "also reduce what is reserved to what is requested"},
			&cli.StringFlag{Name: "connect", Usage: "libvirt connection `URI`", EnvVars: []string{"LIBVIRT_DEFAULT_URI"}, Value: libvirt.DefaultURI}),
			changeFlags()...),
	}
}

// changeFlags are the options of commands that change the system.
func changeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "dry-run", Usage: "preview: show what would be done, do nothing"},
		&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
		&cli.StringFlag{Name: "root", Usage: "work on the files of the system below this `DIR`; commands are shown, not run"},
	}
}

// HugepagesCommand sets hugepages up, shows them, and undoes what it did.
func HugepagesCommand() *cli.Command {
	return &cli.Command{
		Name: "hugepages", Usage: "provision, show, verify or undo hugepages", Action: unknownVerb("hugepages"), Subcommands: []*cli.Command{
			provisionCommand("provision"),
			{Name: "show", Usage: "pools by node and size, mounts, and who uses pages (of others' processes: as root)", Action: showHugepages, Flags: outputFlags()},
			{Name: "verify", Usage: "compare what was requested with what the kernel reserved", Action: verifyHugepages, Flags: outputFlags(),
				Description: "EXIT CODES (of this command)\n   0 everything is reserved, or will be at the next boot   1 something is missing"},
			{Name: "reserve", Usage: "reserve for this boot what was requested before (for the unit at boot)", Action: reserveHugepages,
				Flags: append(outputFlags(), changeFlags()[:2]...)},
			{Name: "undo", Usage: "undo what hugepages provision did", Action: undoHugepages, Flags: append(append(outputFlags(),
				&cli.BoolFlag{Name: "force", Usage: "also revert files that were edited after vhostctl wrote them"}), changeFlags()...)},
		},
	}
}

// hugepagesHost is the running system, or one below a directory.
func hugepagesHost(c *cli.Context) hugepages.Host {
	h := hugepages.System()
	if root := c.String("root"); root != "" {
		h.Store = sysedit.Store{Root: root}
		h.Runner = boot.Below{Root: root}
	}
	return h
}

func provisionHugepages(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	request, err := hugepagesRequest(c)
	if err != nil {
		return err
	}
	plan, err := hugepagesHost(c).Plan(c.Context, request)
	if err != nil {
		return change.Explain(err)
	}
	return changeHugepages(c, plan.Summary, plan.Apply)
}

// changeHugepages carries out a plan. Also without a change, what was asked for is remembered for verify.
func changeHugepages(c *cli.Context, summary func() hugepages.Summary, apply func(context.Context) error) error {
	s := summary()
	return runChange(c, change.Change{
		Empty:  !s.Change,
		Record: true,
		Show:   func(w io.Writer) { printHugepages(w, s) },
		Apply: func(ctx context.Context, _ func(string)) error {
			err := apply(ctx)
			s.Reboot = summary().Reboot
			return err
		},
		Report: func(w io.Writer, _ bool) { printReboot(w, s) },
		Result: func(bool) any { return s },
	})
}

func printReboot(w io.Writer, s hugepages.Summary) {
	if len(s.Reboot) == 0 && s.Need.PageSize != 0 {
		fmt.Fprintln(w, "no reboot is needed")
	}
	for _, why := range s.Reboot {
		fmt.Fprintln(w, "reboot needed:", why)
	}
}

func printHugepages(w io.Writer, s hugepages.Summary) {
	for _, r := range s.Need.Reasons {
		fmt.Fprintln(w, "need:", r)
	}
	if !s.Change {
		fmt.Fprintln(w, "nothing to do, already configured")
	}
	fmt.Fprint(w, s.Diff)
	for _, list := range []struct {
		word  string
		lines []string
	}{{"pool,", s.Pools}, {"mount", s.Mounts}, {"run", s.Commands}} {
		for _, line := range list.lines {
			fmt.Fprintln(w, "*", list.word, line)
		}
	}
	for _, n := range s.Notes {
		fmt.Fprintln(w, "note:", n)
	}
}

// hugepagesRequest reads the options.
func hugepagesRequest(c *cli.Context) (hugepages.Request, error) {
	r := hugepages.Request{Mount: c.String("mount"), Persist: c.Bool("persist"), Runtime: c.Bool("runtime"), Exact: c.Bool("exact")}
	for name, to := range map[string]*bytesize.Size{"for-vms": &r.ForVMs, "for-switch": &r.ForSwitch, "page-size": &r.PageSize} {
		if text := c.String(name); text != "" {
			size, err := bytesize.Parse(text)
			if err != nil {
				return r, usagef("--%s: %v", name, err)
			}
			*to = size
		}
	}
	if s := r.PageSize; s != 0 && s != bytesize.GiB && s != 2*bytesize.MiB {
		return r, usagef("--page-size must be 1G or 2M, not %v", s)
	}
	for _, text := range c.StringSlice("node") {
		n, count, _ := strings.Cut(text, "=")
		node, err1 := strconv.ParseUint(n, 10, 16)
		pages, err2 := strconv.ParseUint(count, 10, 32)
		if err1 != nil || err2 != nil {
			return r, usagef("--node must be N=COUNT, such as 0=4, not %q", text)
		}
		if r.Nodes == nil {
			r.Nodes = map[int]uint64{}
		}
		if _, twice := r.Nodes[int(node)]; twice {
			return r, usagef("--node %d is given twice", node)
		}
		r.Nodes[int(node)] = pages
	}
	if r.ForVMs == 0 && r.ForSwitch == 0 && r.Nodes == nil && !c.Bool("for-domains") {
		return r, usagef("nothing requested: give --for-vms SIZE, --for-domains, --node N=COUNT or --for-switch SIZE")
	}
	if c.String("root") != "" {
		if r.Runtime {
			return r, usagef("--root changes files only: it cannot be combined with --runtime")
		}
		r.Persist = true
	}
	if !c.Bool("for-domains") {
		return r, nil
	}
	return r, addDomains(c, &r)
}

func addDomains(c *cli.Context, r *hugepages.Request) error {
	conn, err := libvirt.Connect(c.String("connect"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if r.Domains, err = guests.Memory(conn); err != nil {
		return err
	}
	if len(r.Domains) == 0 {
		return fmt.Errorf("libvirt has no domains at %s: give --for-vms SIZE", c.String("connect"))
	}
	return nil
}

func showHugepages(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	report, err := hugepages.System().Show()
	if err != nil {
		return change.Explain(err)
	}
	return show(c, report, hugepagesTable)
}

func hugepagesTable(w io.Writer, r hugepages.Report) {
	table(w, "NODE SIZE TOTAL FREE RESERVED SURPLUS", func(row func(...any)) {
		for _, p := range r.Pools {
			size := p.Size.String()
			if p.Size == r.Default {
				size += "*"
			}
			row("all", size, p.Total, p.Free, p.Reserved, p.Surplus)
		}
		for _, n := range r.Nodes {
			for _, p := range n.Pools {
				reserved := "-" // the kernel does not tell it by node
				if len(r.Nodes) == 1 {
					reserved = fmt.Sprint(p.Reserved)
				}
				row(n.ID, p.Size, p.Total, p.Free, reserved, p.Surplus)
			}
		}
	})
	fmt.Fprintf(w, "* the kernel's default size\n\n")
	if len(r.Mounts) == 0 {
		fmt.Fprintln(w, "no hugetlbfs is mounted")
	} else {
		table(w, "MOUNT SIZE OPTIONS", func(row func(...any)) {
			for _, m := range r.Mounts {
				row(orDash(m.Path), m.Size, m.Options)
			}
		})
	}
	fmt.Fprintln(w)
	if len(r.Users) == 0 {
		fmt.Fprintln(w, "no visible process uses hugepages")
		return
	}
	table(w, "PID COMMAND PAGES SIZE FILE", func(row func(...any)) {
		for _, u := range r.Users {
			pid := "-"
			if u.PID != 0 {
				pid = fmt.Sprint(u.PID)
			}
			row(pid, orDash(u.Command), u.Pages, u.Size, orDash(u.File))
		}
	})
}

func verifyHugepages(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	findings, err := hugepages.System().Verify()
	if err != nil {
		return change.Explain(err)
	}
	err = show(c, findings, func(w io.Writer, list []hugepages.Finding) {
		table(w, "STATUS WHAT ASKED GOT NEXT", func(row func(...any)) {
			for _, f := range list {
				row(f.Status(), f.What, f.Asked, f.Got, orDash(f.Hint))
			}
		})
	})
	for _, f := range findings {
		if err == nil && !f.OK && !f.Pending {
			return statusError(exitFailure)
		}
	}
	return err
}

// reserveHugepages is no failure where nothing was ever asked for: its unit runs at each boot.
func reserveHugepages(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	plan, err := hugepages.System().Again(c.Context)
	if errors.Is(err, hugepages.ErrNothingAsked) {
		fmt.Fprintln(os.Stderr, "vhostctl:", err)
		return nil
	}
	if err != nil {
		return change.Explain(err)
	}
	return changeHugepages(c, plan.Summary, plan.Apply)
}

func undoHugepages(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	undo, err := hugepagesHost(c).Undo(c.Bool("force"))
	if err != nil {
		return change.Explain(err)
	}
	return changeHugepages(c, undo.Summary, undo.Apply)
}
