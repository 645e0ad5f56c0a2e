package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"vhostkit/cmd/vhostctl/change"
	"vhostkit/internal/sysedit"
	"vhostkit/internal/term"
	"vhostkit/libvirt"
	"vhostkit/libvirt/attach"
	"vhostkit/libvirt/domainxml"
)

const attachDescription = `Gives the domain's network interfaces ports of the switch, and makes its memory shared with it. The change is shown first.
   The original is kept in the domain's metadata: vhostctl detach restores it.

EXAMPLES
   A domain with one interface:        vhostctl attach vm1
   Preview:                            vhostctl attach vm1 --dry-run
   All interfaces, and start it:       vhostctl attach vm1 --interface all --yes --start
   One of several, in the running VM:  vhostctl attach vm1 --interface 52:54:00:12:34:56 --live
   A description in a file:            vhostctl attach --xml vm1.xml > vm1-on-the-switch.xml`

const detachDescription = `Undoes vhostctl attach: restores the domain's configuration and removes its ports.
   Other settings that were changed since stay. If what attach wrote was edited, detach refuses unless --force is given.

EXAMPLES
   vhostctl detach vm1
   vhostctl detach vm1 --dry-run
   vhostctl detach --xml vm1-on-the-switch.xml`

func domainFlags() []cli.Flag {
	return append(outputFlags(),
		&cli.StringFlag{Name: "connect", Usage: "libvirt connection `URI`", EnvVars: []string{"LIBVIRT_DEFAULT_URI"}, Value: libvirt.DefaultURI},
		&cli.StringFlag{Name: "xml", Usage: "work on the description in this `FILE` (- is standard input) and print the result; no libvirt, no switchd"},
		&cli.BoolFlag{Name: "config", Usage: "change the configuration only, not the running guest"},
		&cli.BoolFlag{Name: "live", Usage: "change the running guest too, or fail"},
		&cli.BoolFlag{Name: "dry-run", Usage: "preview: show what would be done, do nothing"},
		&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
	)
}

// AttachCommand puts a domain's interfaces on the switch.
func AttachCommand() *cli.Command {
	return &cli.Command{
		Name: "attach", Usage: "put a libvirt domain's interfaces on the switch", ArgsUsage: "DOMAIN", Description: attachDescription,
		Action: attachDomain, Flags: append(domainFlags(),
			&cli.StringSliceFlag{Name: "interface", Usage: "`INTERFACE` by MAC address, alias or index, or all; repeatable (default: the only one)"},
			&cli.StringFlag{Name: "mode", Usage: "vhost-user or cuse", Value: "vhost-user"},
			&cli.StringFlag{Name: "device", Usage: "vhost-cuse device `PATH` for --mode cuse", Value: "/dev/usvhost"},
			&cli.StringFlag{Name: "memory", Usage: "memfd, hugepages or keep", Value: domainxml.MemoryMemfd},
			&cli.IntFlag{Name: "queues", Usage: "`NUMBER` of queue pairs; 0 keeps it", Value: 0},
			&cli.BoolFlag{Name: "start", Usage: "start the domain afterwards"}),
	}
}

// DetachCommand undoes attach.
func DetachCommand() *cli.Command {
	return &cli.Command{
		Name: "detach", Usage: "undo attach for a libvirt domain", ArgsUsage: "DOMAIN", Description: detachDescription,
		Action: detachDomain, Flags: append(domainFlags(),
			&cli.BoolFlag{Name: "force", Usage: "also revert what was edited after vhostctl wrote it"}),
	}
}

func attachDomain(c *cli.Context) error {
	r, err := attachRequest(c)
	if err != nil {
		return err
	}
	if c.String("xml") != "" {
		return rewriteFile(c, func(text string) (domainxml.Result, error) {
			return domainxml.Attach(text, domainxml.Options{
				Select: r.Interfaces, CUSE: r.CUSE, Memory: r.Memory, Queues: r.Queues, Port: fileNamer(text),
			})
		})
	}
	return changeDomain(c, r, attach.PrepareAttach)
}

// fileNamer names ports for a description that no libvirt and no switchd knows yet.
func fileNamer(text string) func(domainxml.Interface) (string, string, error) {
	return func(i domainxml.Interface) (string, string, error) {
		d, err := domainxml.Inspect(text)
		if err != nil {
			return "", "", err
		}
		name := attach.PortName(d.Name, i.Index)
		return name, filepath.Join(socketDir(), name+".sock"), nil
	}
}

func attachRequest(c *cli.Context) (attach.Request, error) {
	r := attach.Request{
		Interfaces: c.StringSlice("interface"), Memory: c.String("memory"), Queues: c.Int("queues"), Start: c.Bool("start"),
	}
	switch c.String("mode") {
	case "vhost-user":
	case "cuse":
		r.CUSE = c.String("device")
	default:
		return r, usagef("--mode must be vhost-user or cuse, not %q", c.String("mode"))
	}
	switch r.Memory {
	case domainxml.MemoryMemfd, domainxml.MemoryHugepages, domainxml.MemoryKeep:
	default:
		return r, usagef("--memory must be memfd, hugepages or keep, not %q", r.Memory)
	}
	if r.Queues < 0 || r.Queues > 128 {
		return r, usagef("--queues must be 1..128, not %d", r.Queues)
	}
	return r, nil
}

func detachDomain(c *cli.Context) error {
	r := attach.Request{Force: c.Bool("force")}
	if c.String("xml") != "" {
		return rewriteFile(c, func(text string) (domainxml.Result, error) { return domainxml.Detach(text, r.Force) })
	}
	return changeDomain(c, r, attach.PrepareDetach)
}

// rewriteFile prints what becomes of a description in a file.
func rewriteFile(c *cli.Context, rewrite func(string) (domainxml.Result, error)) error {
	if c.Args().Present() {
		return usagef("use either --xml FILE or DOMAIN")
	}
	var data []byte
	var err error
	if name := c.String("xml"); name == "-" {
		data, err = io.ReadAll(os.Stdin)
	} else {
		data, err = os.ReadFile(name)
	}
	if err != nil {
		return err
	}
	r, err := rewrite(string(data))
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		fmt.Print(sysedit.Diff("a/domain.xml", "b/domain.xml", data, []byte(r.XML)))
	} else {
		fmt.Print(r.XML)
	}
	for _, line := range r.Changes {
		fmt.Fprintln(os.Stderr, line)
	}
	return nil
}

type prepare func(context.Context, libvirt.Connection, attach.Switch, attach.Request) (*attach.Plan, error)

// changeDomain attaches or detaches a domain.
func changeDomain(c *cli.Context, r attach.Request, prepare prepare) error {
	args, err := arguments(c, "DOMAIN")
	if err != nil {
		return err
	}
	if r.Domain, r.Live, r.Config = args[0], c.Bool("live"), c.Bool("config"); r.Live && r.Config {
		r.Config = false // both: the running guest too, which --live says
	}
	conn, err := libvirt.Connect(c.String("connect"))
	if err != nil {
		return err
	}
	defer conn.Close()
	plan, err := prepare(c.Context, conn, client(c), r)
	if err != nil {
		return err
	}
	return runChange(c, change.Change{
		Empty:  plan.Empty(),
		Show:   func(w io.Writer) { printPlan(w, plan) },
		Apply:  plan.Apply,
		Report: func(w io.Writer, applied bool) { reportPlan(w, plan, applied) },
		Result: func(bool) any { return plan },
	})
}

// runChange takes a change through change's steps, with the options that all such commands have.
func runChange(c *cli.Context, ch change.Change) error {
	t := change.Terminal{In: os.Stdin, Out: os.Stdout, Interactive: term.IsTerminal(os.Stdin)}
	err := t.Run(c.Context, ch, change.Options{DryRun: c.Bool("dry-run"), Yes: c.Bool("yes"), JSON: c.String("output") == "json"})
	if errors.Is(err, change.ErrUnconfirmed) {
		return &usageError{err}
	}
	return err
}

func printPlan(w io.Writer, p *attach.Plan) {
	if p.Empty() {
		fmt.Fprintf(w, "domain %s: nothing to do\n", p.Domain)
		return
	}
	fmt.Fprint(w, p.Diff())
	for _, line := range p.Changes {
		fmt.Fprintln(w, "*", line)
	}
}

func reportPlan(w io.Writer, p *attach.Plan, applied bool) {
	if applied {
		fmt.Fprintf(w, "done; vhostctl domains shows %s, vhostctl doctor %s checks it\n", p.Domain, p.Domain)
	}
	for _, n := range p.Notes {
		fmt.Fprintln(w, "note:", n)
	}
}
