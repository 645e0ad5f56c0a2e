// Command vhostctl shows and changes what a running switchd does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"vhostkit/switchd/config"
	"vhostkit/switchd/control"
	"vhostkit/templates/man"
)

// Exit codes.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitUnreachable = 3
)

const description = `EXAMPLES
   The ports, and who is not ready:    vhostctl ports
   One port with all its counters:     vhostctl port show 0
   Rates, every second:                vhostctl stats --watch 1s
   A port with a socket of its own:    vhostctl port add vm1
   For scripts:                        vhostctl ports -o json

EXIT CODES
   0 done   1 failed   2 wrong command line   3 switchd is not reachable`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	app := newApp()
	err := app.RunContext(ctx, reorder(app, os.Args))
	if err == nil {
		return
	}
	var status statusError
	if errors.As(err, &status) {
		os.Exit(int(status)) // everything was said
	}
	fmt.Fprintf(os.Stderr, "vhostctl: %v\n", err)
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		os.Exit(exitUsage)
	case errors.Is(err, control.ErrUnreachable):
		os.Exit(exitUnreachable)
	}
	os.Exit(exitFailure)
}

// usageError is an error in the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() + " (vhostctl --help shows the commands)" }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func newApp() *cli.App {
	onUsage := func(_ *cli.Context, err error, _ bool) error { return &usageError{err} }
	app := &cli.App{
		Name: "vhostctl", Usage: "show and change what switchd does", Description: description, HideVersion: true,
		EnableBashCompletion: true, ExitErrHandler: func(*cli.Context, error) {}, OnUsageError: onUsage,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "control", Usage: "control socket `PATH` of switchd", EnvVars: []string{"VHOSTKIT_CONTROL"},
				Value: config.DefaultConfig().ControlSocket},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("unknown command %q", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			{Name: "ports", Usage: "list the ports", Action: listPorts, Flags: outputFlags()},
			{Name: "port", Usage: "show, add or remove a port", Action: unknownVerb("port"), Subcommands: []*cli.Command{
				{Name: "show", Usage: "show one port", ArgsUsage: "NUMBER|NAME", Action: showPort, Flags: outputFlags()},
				{Name: "add", Usage: "add a port with a socket of its own; it survives restarts", ArgsUsage: "NAME", Action: addPort,
					Flags: outputFlags()},
				{Name: "remove", Usage: "remove such a port and disconnect its guest", ArgsUsage: "NAME", Action: removePort,
					Flags: outputFlags()},
			}},
			{Name: "stats", Usage: "show the counters", Action: showStats, Flags: append(outputFlags(),
				&cli.DurationFlag{Name: "watch", Usage: "repeat every `INTERVAL`, with rates"})},
			{Name: "fdb", Usage: "list the learned MAC addresses", Action: showFDB, Flags: outputFlags()},
			{Name: "version", Usage: "show the versions of vhostctl and switchd", Action: showVersion, Flags: outputFlags()},
			AttachCommand(),
			DetachCommand(),
			DomainsCommand(),
			DoctorCommand(),
			HostCommand(),
			HugepagesCommand(),
			formerly(hostSetupCommand("install-acl")),
			formerly(provisionCommand("provision-hugepages")),
			NICCommand(),
			{Name: "man", Usage: "print the manual page", Hidden: true, Action: manualPage},
			{Name: "completion", Usage: "print the completion script of a shell", ArgsUsage: "bash|zsh|fish", Action: completion},
		},
	}
	setUsage(app.Commands, onUsage)
	return app
}

// manualPage prints vhostctl(8), for make man.
func manualPage(c *cli.Context) error {
	page, err := man.Page(newApp())
	if err == nil {
		_, err = fmt.Print(page)
	}
	return err
}

func setUsage(commands []*cli.Command, f cli.OnUsageErrorFunc) {
	for _, c := range commands {
		c.OnUsageError = f
		setUsage(c.Subcommands, f)
	}
}

func unknownVerb(noun string) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.Args().Present() {
			return usagef("unknown command %q", noun+" "+c.Args().First())
		}
		return cli.ShowSubcommandHelp(c)
	}
}

func outputFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "table or json", Value: "table"},
		&cli.StringFlag{Name: "control", Usage: "control socket `PATH` of switchd, here or before the command"},
	}
}

// controlPath is the innermost --control that was given, or the environment's, or the default.
func controlPath(c *cli.Context) string {
	for _, level := range c.Lineage() {
		if path := level.String("control"); path != "" {
			return path
		}
	}
	return config.DefaultConfig().ControlSocket
}

func client(c *cli.Context) *control.Client { return control.NewClient(controlPath(c)) }

// arguments checks how many there are: as many as names.
func arguments(c *cli.Context, names ...string) ([]string, error) {
	args := c.Args().Slice()
	switch {
	case len(args) == len(names):
	case len(names) == 0:
		return nil, usagef("%s takes no arguments", c.Command.HelpName)
	default:
		return nil, usagef("%s takes one argument, %s, not %d", c.Command.HelpName, strings.Join(names, " "), len(args))
	}
	return args, checkOutput(c)
}

// checkOutput checks --output.
func checkOutput(c *cli.Context) error {
	if o := c.String("output"); o != "" && o != "table" && o != "json" {
		return usagef("--output must be table or json, not %q", o)
	}
	return nil
}
