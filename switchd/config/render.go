package config

import (
	"fmt"
	"strconv"
	"strings"
)

// The directories of the system's own switchd, which samples and documents name.
const (
	systemRun   = "/run/vhostkit"
	systemState = "/var/lib/vhostkit"
)

// Sample is the sample of the configuration file: every setting with its default behind a "#".
func Sample() string {
	var b strings.Builder
	b.WriteString(`# /etc/vhostkit/switchd.toml: settings of switchd, under the names of its long options. What stands here behind a "#" is the default.
# "switchd --check-config" reads this file and says what is wrong. SIGHUP (systemctl reload switchd) takes over those that are
# marked as reloadable; the rest needs a restart, over which guests reconnect by themselves.
`)
	for _, s := range Sections() {
		fmt.Fprintf(&b, "\n# %s.\n[%s]\n", s.Title, s.Name)
		for _, o := range Options() {
			if o.Section != s.Name {
				continue
			}
			help := strings.ToUpper(o.Help[:1]) + o.Help[1:]
			if o.Choices != nil || o.Section == "uplink" && strings.HasPrefix(o.Help, "none,") {
				help = o.Help // values are written as they are
			}
			if o.Reloadable {
				help += " (reloadable)"
			}
			for _, line := range wrap(help+".", 130) {
				b.WriteString("# " + line + "\n")
			}
			fmt.Fprintf(&b, "#%s = %s\n", o.Name, o.inFile())
		}
	}
	return b.String()
}

// inFile is the default as the file has it.
func (o Option) inFile() string {
	text := o.defaultIn(systemRun, systemState)
	switch o.Kind {
	case Number, Size:
		return text
	case Boolean, Switch:
		return strconv.FormatBool(text == "1")
	case List:
		return "[]"
	}
	return strconv.Quote(text)
}

// Markdown is the table of all settings for documents.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| option and key | section | values | default | in DPDK's vhost sample | change takes effect | meaning |\n")
	b.WriteString("|---|---|---|---|---|---|---|\n")
	for _, o := range Options() {
		section, effect := "command line only", "at a restart"
		if o.Section != "" {
			section = "`[" + o.Section + "]`"
		}
		if o.Reloadable {
			effect = "at a reload"
		}
		if o.Section == "" {
			effect = ""
		}
		fmt.Fprintf(&b, "| `--%s` | %s | %s | %s | %s | %s | %s |\n", o.Name, section, o.values(), code(o.defaultIn(systemRun, systemState)),
			code(o.Sample), effect, o.Help)
	}
	return b.String()
}

// values tells in a word or two what can be written.
func (o Option) values() string {
	switch o.Kind {
	case Number:
		return fmt.Sprintf("%d..%d", o.Low, o.High)
	case Boolean, Switch:
		return "0, 1, false, true"
	case Choice:
		return strings.Join(o.Choices, ", ")
	}
	return o.Arg
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// HelpText is the option's help with its default, in one sentence.
func (o Option) HelpText(c Config) string {
	text := o.Help
	if o.Default != "" && o.Kind != Switch {
		switch v := o.Value(c).(type) {
		case bool:
			text += map[bool]string{true: " (default: 1)", false: " (default: 0)"}[v]
		case string:
			text += fmt.Sprintf(" (default: %q)", v)
		default:
			text += fmt.Sprintf(" (default: %v)", v)
		}
	}
	return text
}

// Usage is the option as it is written: "--uplink NAME".
func (o Option) Usage() string {
	text := "--" + o.Name
	if o.Short != "" {
		text += ", -" + o.Short
	}
	switch {
	case o.Kind == Switch:
		return text
	case o.Kind == Boolean:
		return text + " 0|1"
	}
	return text + " " + o.Arg
}

// wrap breaks a text into lines of at most width bytes.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
