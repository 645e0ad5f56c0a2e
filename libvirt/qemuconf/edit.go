package qemuconf

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Settings are what qemu.conf shall say.
type Settings struct {
	Devices []string // to be in cgroup_device_acl, beside the file's own list
	AsRoot  bool     // QEMU runs as root and keeps its capabilities
}

// defaultDevices are what libvirt allows when the file does not even show its default list.
var defaultDevices = []string{"/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/ptmx", "/dev/kvm"}

// gone are devices that old files and the guide to DPDK's vhost sample list.
var gone = []string{"/dev/kqemu", "/dev/rtc", "/dev/hpet"}

// Edit gives the file's text with the settings, and what was changed. A second Edit changes nothing.
func Edit(text string, s Settings) (string, []string, error) {
	var changes []string
	step := func(next string, change string, err error) error {
		if err == nil && next != text {
			text = next
			changes = append(changes, change)
		}
		return err
	}
	if len(s.Devices) > 0 {
		next, err := setList(text, "cgroup_controllers", []string{"devices"}, nil)
		if err := step(next, `cgroup_controllers has "devices"`, err); err != nil {
			return "", nil, err
		}
		next, err = setList(text, "cgroup_device_acl", s.Devices, defaultDevices)
		if err := step(next, "cgroup_device_acl has "+strings.Join(s.Devices, ", "), err); err != nil {
			return "", nil, err
		}
	}
	if s.AsRoot {
		for _, v := range [][2]string{{"clear_emulator_capabilities", "0"}, {"user", `"root"`}, {"group", `"root"`}} {
			next, err := setScalar(text, v[0], v[1])
			if err := step(next, v[0]+" = "+v[1], err); err != nil {
				return "", nil, err
			}
		}
	}
	return text, changes, nil
}

// ByHand are the lines to add where the file cannot be edited.
func ByHand(s Settings) string {
	var b strings.Builder
	if len(s.Devices) > 0 {
		b.WriteString("cgroup_device_acl = [ " + quoteAll(append(slices.Clone(defaultDevices), s.Devices...)) + " ]\n")
	}
	if s.AsRoot {
		b.WriteString("clear_emulator_capabilities = 0\nuser = \"root\"\ngroup = \"root\"\n")
	}
	return b.String()
}

// newline is how the text ends its lines.
func newline(text string) string {
	if strings.Contains(text, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

func quoteAll(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = strconv.Quote(s)
	}
	return strings.Join(quoted, ", ")
}

// last is the statement that counts: the last with that name.
func last(statements []statement, name string) *statement {
	for i := len(statements) - 1; i >= 0; i-- {
		if statements[i].name == name {
			return &statements[i]
		}
	}
	return nil
}

// setList makes sure that a list has the wanted items. A list that is there is added to; otherwise the default that the file shows in a
// comment becomes active, with the items; without one, fallback and the items. A list that nothing stands for and that has no fallback is
// left to libvirt.
func setList(text, name string, wanted, fallback []string) (string, error) {
	statements, err := parse(text)
	if err != nil {
		return "", err
	}
	if s := last(statements, name); s != nil {
		return addItems(text, name, s.value, wanted)
	}
	items, end, found := commented(text, name)
	if !found {
		if fallback == nil {
			return text, nil
		}
		items, end = fallback, len(text)
	}
	if name == "cgroup_device_acl" {
		// What became active replaces what libvirt allows by itself. Newer versions show a list without /dev/kvm, older ones show devices
		// that no kernel has any more.
		items = slices.DeleteFunc(slices.Clone(items), func(d string) bool { return slices.Contains(gone, d) })
		wanted = append([]string{"/dev/kvm"}, wanted...)
	}
	for _, w := range wanted {
		if !slices.Contains(items, w) {
			items = append(items[:len(items):len(items)], w)
		}
	}
	return insert(text, end, layout(name, items, newline(text))), nil
}

// layout writes a list as the shipped file does: short on one line, else a few items on each.
func layout(name string, items []string, eol string) string {
	one := name + " = [ " + quoteAll(items) + " ]"
	if len(one) <= 80 {
		return one
	}
	var b strings.Builder
	b.WriteString(name + " = [" + eol)
	line := "   "
	for i, s := range items {
		item := " " + strconv.Quote(s)
		if i < len(items)-1 {
			item += ","
		}
		if len(line)+len(item) > 72 {
			b.WriteString(line + eol)
			line = "   "
		}
		line += item
	}
	b.WriteString(line + eol + "]")
	return b.String()
}

// insert puts a line at a place that is the end of a line or of the text.
func insert(text string, at int, line string) string {
	eol := newline(text)
	if at == len(text) {
		if at > 0 && text[at-1] != '\n' {
			return text + eol + line // as the file does, without an end of the last line
		}
		return text + line + eol
	}
	return text[:at] + line + eol + text[at:]
}

// addItems adds to a list what it lacks, in the way it is written.
func addItems(text, name string, v value, wanted []string) (string, error) {
	if !v.isList {
		return "", fmt.Errorf("%w: %s is no list", ErrSyntax, name)
	}
	var missing []string
	for _, w := range wanted {
		if !slices.ContainsFunc(v.list, func(i value) bool { return i.text == w }) {
			missing = append(missing, w)
		}
	}
	if len(missing) == 0 {
		return text, nil
	}
	if len(v.list) == 0 {
		return text[:v.start] + "[ " + quoteAll(missing) + " ]" + text[v.end:], nil
	}
	tail := v.list[len(v.list)-1]
	separator := ", "
	if strings.Contains(text[v.start:v.end], "\n") {
		begin := strings.LastIndexByte(text[:tail.start], '\n') + 1
		line := text[begin:tail.start]
		separator = "," + newline(text) + line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		if strings.TrimSpace(line) != "" && !strings.HasPrefix(strings.TrimSpace(line), `"`) {
			separator = "," + newline(text) + "    "
		}
	}
	return text[:tail.end] + separator + quoteAll(missing) + text[tail.end:], nil
}

// commented reads the list that the file shows in a comment as the default, and gives the place behind it.
func commented(text, name string) (items []string, end int, found bool) {
	begin := regexp.MustCompile(`(?m)^#[ \t]*` + regexp.QuoteMeta(name) + `[ \t]*=[ \t]*\[`).FindStringIndex(text)
	if begin == nil {
		return nil, 0, false
	}
	// The comment's lines without their "#", until the list ends.
	var plain strings.Builder
	for at := begin[0]; at < len(text) && text[at] == '#'; {
		line, _, _ := strings.Cut(text[at:], "\n")
		at += min(len(line)+1, len(text)-at)
		plain.WriteString(strings.TrimSuffix(line[1:], "\r") + "\n")
		statements, err := parse(plain.String())
		if err != nil || len(statements) == 0 || !statements[0].value.isList {
			continue
		}
		for _, i := range statements[0].value.list {
			items = append(items, i.text)
		}
		return items, at, true
	}
	return nil, 0, false
}

// setScalar makes sure that a setting has a value, given as it is written.
func setScalar(text, name, want string) (string, error) {
	statements, err := parse(text)
	if err != nil {
		return "", err
	}
	if s := last(statements, name); s != nil {
		if text[s.value.start:s.value.end] == want || !s.value.isList && s.value.text == strings.Trim(want, `"`) {
			return text, nil
		}
		return text[:s.value.start] + want + text[s.value.end:], nil
	}
	line := name + " = " + want
	example := regexp.MustCompile(`(?m)^#[ \t]*`+regexp.QuoteMeta(name)+`[ \t]*=.*$`).FindAllStringIndex(text, -1)
	if len(example) == 0 {
		return insert(text, len(text), line), nil
	}
	end := example[len(example)-1][1]
	if end < len(text) {
		return insert(text, end+1, line), nil
	}
	return insert(text, end, line), nil
}
