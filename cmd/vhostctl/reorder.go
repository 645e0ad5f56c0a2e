package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// reorder puts options before the other arguments of a command, so that they may be written behind them, as people do:
// vhostctl attach vm1 --dry-run. What follows "--" stays as it is.
func reorder(app *cli.App, args []string) []string {
	out := args[:1:1]
	flags, commands := app.Flags, app.Commands
	var options, others []string
	for i := 1; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			others = append(others, args[i:]...)
			break
		}
		if len(a) > 1 && a[0] == '-' {
			if takesValue(flags, a) {
				if i+1 == len(args) { // nothing else may become its value
					others = append(others, a)
					break
				}
				i++
				options = append(options, a, args[i])
				continue
			}
			options = append(options, a)
			continue
		}
		at := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(a) })
		if len(others) == 0 && at >= 0 {
			out = append(append(out, options...), a)
			options = nil
			flags, commands = commands[at].Flags, commands[at].Subcommands
			continue
		}
		others, commands = append(others, a), nil
	}
	return append(append(out, options...), others...)
}

// takesValue tells whether an option's value is the next argument.
func takesValue(flags []cli.Flag, option string) bool {
	name := strings.TrimLeft(option, "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isBool := f.(*cli.BoolFlag)
			return !isBool
		}
	}
	return false
}
