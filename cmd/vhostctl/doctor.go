package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"vhostkit/internal/term"
	"vhostkit/internal/version"
	"vhostkit/libvirt/doctor"
	"vhostkit/switchd/config"
)

const doctorDescription = `Diagnoses why packets do not flow, and suggests a fix for each finding. It changes nothing.
   Without DOMAIN only the host is examined; without libvirt or switchd, what is left of it.

EXAMPLES
   The host:                     sudo vhostctl doctor
   The host and one domain:      sudo vhostctl doctor vm1
   For scripts:                  vhostctl doctor vm1 -o json | jq '.checks[] | select(.status == "fail")'
   The checks:                   vhostctl doctor --list
   Some of them:                 vhostctl doctor --check switchd,uplink,drops

EXIT CODES (of this command)
   0 no problems   1 warnings, or checks without a result   2 failures, or a wrong command line`

// DoctorCommand examines the host and a domain.
func DoctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "find out why packets do not flow", ArgsUsage: "[DOMAIN]", Description: doctorDescription, Action: examine,
		Flags: append(outputFlags(),
			&cli.StringFlag{Name: "connect", Usage: "libvirt connection `URI`", EnvVars: []string{"LIBVIRT_DEFAULT_URI"}, Value: "qemu:///system"},
			&cli.BoolFlag{Name: "all", Usage: "also show checks that do not apply"},
			&cli.StringSliceFlag{Name: "check", Usage: "run only the checks with these `ID`s"},
			&cli.BoolFlag{Name: "list", Usage: "list the checks, run none"}),
	}
}

// statusError ends the program with an exit code after everything was printed.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func examine(c *cli.Context) error {
	name, err := optionalDomain(c)
	if err != nil {
		return err
	}
	if c.Bool("list") {
		return show(c, listChecks(), checksTable)
	}
	checks, err := doctor.Select(c.StringSlice("check"))
	if err != nil {
		return &usageError{err}
	}
	uri := c.String("connect")
	env := &doctor.Env{
		Files: doctor.Dir(""), Run: doctor.Exec, Switch: client(c), URI: uri, Domain: name, Version: version.Version,
		SocketDir: socketDir(), Interval: time.Second,
		Connect: func(ctx context.Context) (doctor.Libvirt, error) { return doctor.Connect(ctx, doctor.Exec, uri) },
	}
	report := doctor.Examine(c.Context, env, checks)
	err = show(c, report, func(w io.Writer, r doctor.Report) {
		doctor.Write(w, r, term.Colours(os.Stdout), c.Bool("all"))
	})
	if code := report.ExitCode(); err == nil && code != 0 {
		return statusError(code)
	}
	return err
}

// socketDir is where switchd's configuration file puts named ports' sockets. What is wrong with that file is for switchd to say.
func socketDir() string {
	c := config.DefaultConfig()
	_ = c.LoadFile(config.DefaultConfigFile)
	return c.SocketDir
}

// optionalDomain is the one argument, if there is one.
func optionalDomain(c *cli.Context) (name string, err error) {
	if args := c.Args().Slice(); len(args) > 1 || len(args) == 1 && args[0] == "" {
		return "", usagef("vhostctl doctor takes one argument at most, the name of a domain, not %q", args)
	}
	return c.Args().First(), checkOutput(c)
}

// checkInfo is a check as --list prints it.
type checkInfo struct {
	ID    string       `json:"id"`
	Group string       `json:"group"`
	Scope doctor.Scope `json:"scope"`
	Title string       `json:"title"`
}

func listChecks() []checkInfo {
	var list []checkInfo
	for _, c := range doctor.Checks() {
		list = append(list, checkInfo{c.ID, c.Group, c.Scope, c.Title})
	}
	return list
}

func checksTable(w io.Writer, list []checkInfo) {
	table(w, "ID GROUP SCOPE TITLE", func(row func(...any)) {
		for _, c := range list {
			row(c.ID, c.Group, c.Scope, c.Title)
		}
	})
}
