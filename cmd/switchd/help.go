package main

import (
	"fmt"
	"strings"

	"vhostkit/internal/version"
	"vhostkit/switchd/config"
)

const about = "a switch for virtual machines, over vhost-user"

const description = `Guests connect to a Unix socket over vhost-user, or to a character device (--backend cuse); each
connection becomes a port. The command lines of DPDK's vhost sample application work unchanged, too.`

const examples = `   Two or more guests, no uplink:
      switchd --socket-file /run/vhostkit/vhost.sock
   With an interface of the kernel as the uplink, port N being VLAN 1000+N there:
      switchd --socket-file /run/vhostkit/vhost.sock --uplink tap:vhk0
   Workers on cores 2 and 3 that never sleep:
      switchd --cores 2-3 --poll busy
   A character device for QEMUs with vhost=on, beside the socket:
      switchd --backend both --dev-basename usvhost
   As DPDK's vhost sample:
      switchd -c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- -p 0x1 --dev-basename usvhost`

const exitCodes = `   0 stopped by a signal   1 failed   2 wrong command line or configuration`

// group is a part of the list of options.
type group struct {
	title   string
	options []config.Option
}

// groups are the sections of the configuration file, and what stands on the command line only.
func groups() []group {
	var list []group
	only := group{title: "On the command line only"}
	for _, o := range config.Options() {
		if o.Section == "" {
			only.options = append(only.options, o)
		}
	}
	for _, s := range config.Sections() {
		g := group{title: fmt.Sprintf("%s ([%s] in the configuration file)", s.Title, s.Name)}
		for _, o := range config.Options() {
			if o.Section == s.Name {
				g.options = append(g.options, o)
			}
		}
		list = append(list, g)
	}
	return append(list, only)
}

// help is what --help prints.
func help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "NAME\n   switchd - %s\n\nUSAGE\n   switchd [OPTIONS]\n\nVERSION\n   %s\n\n%s\n\nEXAMPLES\n%s\n\nEXIT CODES\n%s\n", about,
		version.BuildInfo(), description, examples, exitCodes)
	defaults := config.DefaultConfig()
	for _, g := range groups() {
		b.WriteString("\n" + g.title + "\n")
		for _, o := range g.options {
			fmt.Fprintf(&b, "   %-28s %s\n", o.Usage(), o.HelpText(defaults))
		}
	}
	for _, i := range information() {
		if i.help != "" {
			fmt.Fprintf(&b, "   %-28s %s\n", i.usage(), i.help)
		}
	}
	return b.String()
}

func (i info) usage() string {
	text := "--" + i.name
	if i.short != "" {
		text += ", -" + i.short
	}
	return strings.TrimSpace(text + " " + i.arg)
}

// manual is switchd(8) in roff.
func manual() string {
	var b strings.Builder
	escape := strings.NewReplacer(`\`, `\\`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'").Replace
	fmt.Fprintf(&b, ".TH switchd 8 \"\" \"vhostkit %s\" \"vhostkit\"\n.SH NAME\nswitchd \\- %s\n", version.Version, escape(about))
	b.WriteString(".SH SYNOPSIS\n.B switchd\n[\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n" + escape(description) + "\n")
	b.WriteString(".SH OPTIONS\nThe same names are keys of the configuration file, below the section that the heading names.\n")
	defaults := config.DefaultConfig()
	for _, g := range groups() {
		b.WriteString(".SS " + escape(g.title) + "\n")
		for _, o := range g.options {
			text := o.HelpText(defaults)
			if o.Reloadable {
				text += "; reloadable"
			}
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fR\n%s.\n", escape(o.Usage()), escape(text))
		}
	}
	for _, i := range information() {
		if i.help != "" {
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fR\n%s.\n", escape(i.usage()), escape(i.help))
		}
	}
	b.WriteString(".SH FILES\n.TP\n" + escape(config.DefaultConfigFile) + "\nthe configuration file (TOML).\n")
	b.WriteString(".SH SIGNALS\n.TP\nSIGTERM, SIGINT\nstop; a second one ends the process at once.\n.TP\nSIGHUP\nreload the configuration: " +
		"options marked as reloadable take effect, the log names those that need a restart.\n")
	b.WriteString(".SH EXAMPLES\n.nf\n" + escape(examples) + "\n.fi\n.SH EXIT STATUS\n.nf\n" + escape(exitCodes) +
		"\n.fi\n.SH SEE ALSO\n.BR vhostctl (8),\n.BR qemu\\-wrap (8)\n")
	return b.String()
}
