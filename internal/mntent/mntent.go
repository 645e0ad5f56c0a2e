// Package mntent reads and writes the fields of /etc/fstab and /proc/mounts, in which blanks, line ends and backslashes are written in octal.
//
// Source: fstab(5), getmntent(3); show_mountinfo in fs/proc_namespace.c of Linux escapes blank, tab, line end, backslash and #.
package mntent

import "strings"

// Decode is what a field means: each backslash with three octal digits is a byte, as util-linux reads it.
func Decode(field string) string {
	if !strings.Contains(field, `\`) {
		return field
	}
	var b strings.Builder
	for i := 0; i < len(field); i++ {
		if field[i] == '\\' && i+3 < len(field) && field[i+1] <= '3' && isOctal(field[i+1]) && isOctal(field[i+2]) && isOctal(field[i+3]) {
			b.WriteByte((field[i+1]-'0')<<6 | (field[i+2]-'0')<<3 | (field[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(field[i])
	}
	return b.String()
}

func isOctal(c byte) bool { return '0' <= c && c <= '7' }

var escapes = strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`, "\r", `\015`, "#", `\043`)

// Encode writes a text as a field.
func Encode(text string) string { return escapes.Replace(text) }

// Mount is a line of a table of what is mounted.
type Mount struct {
	Source, Path, Type string
	Options            []string
}

// Mounts reads such a table (/proc/mounts, /proc/self/mounts), in its order: what is mounted later at a path covers what was mounted there. Lines
// that are too short are passed over. The kernel separates fields by blanks, and writes those in names in octal; anything else that may count as a
// space is part of a name, which anybody chooses who may mount.
func Mounts(table string) (list []Mount) {
	for line := range strings.Lines(table) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		if len(f) < 4 {
			continue
		}
		list = append(list, Mount{Source: Decode(f[0]), Path: Decode(f[1]), Type: f[2], Options: strings.Split(f[3], ",")})
	}
	return list
}

// Option is the value of an option NAME=value, empty if it is not there; the last one counts.
func (m Mount) Option(name string) (value string) {
	for _, o := range m.Options {
		if v, ok := strings.CutPrefix(o, name+"="); ok {
			value = v
		}
	}
	return value
}
