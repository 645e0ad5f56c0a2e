package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"vhostkit/internal/version"
	"vhostkit/switchd/config"
)

// given are the texts that the command line has for an option.
type given struct {
	option config.Option
	texts  []string
}

// Set keeps the text; it is read when the configuration file has been.
func (g *given) Set(text string) error {
	if g.option.Kind != config.List {
		g.texts = append(g.texts, text)
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		g.texts = append(g.texts, strings.TrimSpace(part))
	}
	return nil
}

func (g *given) String() string { return strings.Join(g.texts, ",") }

// IsBoolFlag has package flag take the option without a value for true.
func (g *given) IsBoolFlag() bool { return g.option.Kind == config.Switch }

// parseOptions reads the new command line: defaults, then the configuration file, then the options. done means that it asked for nothing but
// information, which was printed.
func parseOptions(args []string) (c config.Config, done bool, err error) {
	set := flag.NewFlagSet("switchd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	var all []*given
	for _, o := range config.Options() {
		g := &given{option: o}
		all = append(all, g)
		set.Var(g, o.Name, "")
		if o.Short != "" {
			set.Var(g, o.Short, "")
		}
	}
	var texts []func() bool
	for _, i := range information() {
		switch print := i.print.(type) {
		case func() error:
			wanted := set.Bool(i.name, false, "")
			if i.short != "" {
				set.BoolVar(wanted, i.short, false, "")
			}
			texts = append(texts, func() bool {
				if *wanted {
					err = print()
				}
				return *wanted
			})
		case func(string) error:
			wanted := set.String(i.name, "", "")
			texts = append(texts, func() bool {
				if *wanted != "" {
					err = print(*wanted)
				}
				return *wanted != ""
			})
		}
	}
	if err := set.Parse(args); err != nil {
		return c, false, usageError(err)
	}
	if set.NArg() > 0 {
		return c, false, fmt.Errorf("%w: unexpected argument %q", config.ErrUsage, set.Arg(0))
	}
	for _, print := range texts {
		if print() {
			return c, true, err
		}
	}
	c, err = configure(all)
	return c, false, err
}

// usageError writes options the way users do, with two dashes.
func usageError(err error) error {
	text := err.Error()
	if name, unknown := strings.CutPrefix(text, "flag provided but not defined: -"); unknown {
		text = "unknown option --" + name
		if s := config.Suggest(name); s != "" {
			text += " (did you mean --" + s + "?)"
		}
	}
	text = strings.NewReplacer("for flag -", "for --", "flag needs an argument: -", "no value for --").Replace(text)
	return fmt.Errorf("%w: %s", config.ErrUsage, text)
}

// configure puts the configuration together.
func configure(all []*given) (config.Config, error) {
	c := config.DefaultConfig()
	var wrong []error
	set := map[string]bool{}
	take := func(g *given) {
		set[g.option.Name] = true
		if err := g.option.Set(&c, g.texts...); err != nil {
			wrong = append(wrong, err)
		}
	}
	for _, g := range all {
		if g.option.Name == "config" && len(g.texts) > 0 {
			take(g)
		}
	}
	load := loadDefaultFile
	if c.File != "" {
		load = func(c *config.Config) error { return c.LoadFile(c.File) }
	}
	if err := load(&c); err != nil {
		return c, err
	}
	for _, g := range all {
		if len(g.texts) > 0 && g.option.Name != "config" {
			take(g)
		}
	}
	if len(wrong) > 0 {
		return c, fmt.Errorf("%w: %w", config.ErrUsage, errors.Join(wrong...))
	}
	if names := c.CUSEDevices; set["dev-basename"] {
		c.CUSEDevices = nil
		c.AddBasenames(names...)
	}
	if c.UsesCUSE() && len(c.CUSEDevices) == 0 {
		c.CUSEDevices = []string{config.DefaultDevice}
	}
	if len(c.SocketFiles) == 0 && c.UsesSockets() {
		c.SocketFiles = []string{config.DefaultSocket(c)}
	}
	return c, nil
}

// info is an option that only prints something; print is a func() error, or a func(string) error where it takes a value.
type info struct {
	name, short, arg, help string // no help: not shown
	print                  any
}

func information() []info {
	text := func(make func() string) func() error {
		return func() error {
			_, err := io.WriteString(os.Stdout, make())
			return err
		}
	}
	return []info{
		{name: "help", short: "h", help: "show this help", print: text(help)},
		{name: "version", short: "v", help: "print the version", print: text(func() string { return "switchd version " + version.BuildInfo() + "\n" })},
		{name: "completion", arg: "SHELL", help: "print the completion script for bash, zsh or fish", print: completion},
		{name: "man", print: text(manual)},
		{name: "sample-config", print: text(config.Sample)},
		{name: "options-table", print: text(config.Markdown)},
	}
}
