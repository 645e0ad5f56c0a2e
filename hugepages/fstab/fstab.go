// Package fstab reads /etc/fstab and makes a hugetlbfs be mounted there, changing nothing else.
//
// Source: fstab(5), and mount options of hugetlbfs in Documentation/admin-guide/mm/hugetlbpage.rst of Linux.
package fstab

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"vhostkit/hugepages/bytesize"
	"vhostkit/internal/mntent"
)

// Errors that callers test.
var (
	// ErrUnparsable says that the file holds something that this package does not follow.
	ErrUnparsable = errors.New("cannot be changed safely")
	// ErrNotMounted says that the line for the mount point is there, and that somebody does not want it to be used.
	ErrNotMounted = errors.New("the hugetlbfs is not mounted")
	// ErrConflict says that something else is mounted there.
	ErrConflict = errors.New("another file system has that mount point")
)

// field is a field of a line, at content[start:end].
type field struct{ start, end int }

// line is an entry.
type line struct {
	number int
	fields []field
}

// Table is the file.
type Table struct {
	content []byte
	lines   []line
}

// Parse reads the file.
func Parse(content []byte) (*Table, error) {
	t := &Table{content: content}
	if bytes.IndexByte(content, 0) >= 0 {
		return nil, fmt.Errorf("%w: a zero byte", ErrUnparsable)
	}
	number := 0
	for at := 0; at < len(content); {
		number++
		end := len(content)
		if n := bytes.IndexByte(content[at:], '\n'); n >= 0 {
			end = at + n
		}
		l := line{number: number, fields: fields(content, at, end)}
		switch {
		case len(l.fields) == 0 || content[l.fields[0].start] == '#':
		case len(l.fields) < 3:
			return nil, fmt.Errorf("line %d: %w: fewer than three fields", number, ErrUnparsable)
		default:
			t.lines = append(t.lines, l)
		}
		at = end + 1
	}
	return t, nil
}

func fields(content []byte, at, end int) []field {
	var list []field
	for at < end {
		if isBlank(content[at]) {
			at++
			continue
		}
		start := at
		for at < end && !isBlank(content[at]) {
			at++
		}
		list = append(list, field{start, at})
	}
	return list
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

func (t *Table) text(f field) string { return string(t.content[f.start:f.end]) }

// PageSize is the page size of the hugetlbfs that is mounted at a path; ok tells whether there is such a line. A line without an option
// for it has the kernel's default size: 0.
func (t *Table) PageSize(path string) (size bytesize.Size, ok bool) {
	l := t.find(path)
	if l == nil || t.text(l.fields[2]) != "hugetlbfs" {
		return 0, false
	}
	_, size = t.option(*l)
	return size, true
}

// find is the last entry of a mount point: it is mounted over the others.
func (t *Table) find(path string) *line {
	for i := len(t.lines) - 1; i >= 0; i-- {
		if filepath.Clean(mntent.Decode(t.text(t.lines[i].fields[1]))) == filepath.Clean(path) {
			return &t.lines[i]
		}
	}
	return nil
}

// option finds the page size among a line's options. Of several the last counts, as for the kernel.
func (t *Table) option(l line) (where field, size bytesize.Size) {
	if len(l.fields) < 4 {
		return field{}, 0
	}
	at := l.fields[3].start
	for _, o := range strings.Split(t.text(l.fields[3]), ",") {
		if value, ok := strings.CutPrefix(o, "pagesize="); ok {
			size, _ = bytesize.Parse(value)
			where = field{at, at + len(o)}
		}
		at += len(o) + 1
	}
	return where, size
}

// atBoot tells whether a line is mounted without being asked for.
func (t *Table) atBoot(l line) bool {
	return len(l.fields) < 4 || !slices.Contains(strings.Split(t.text(l.fields[3]), ","), "noauto")
}

// Line is the entry for a hugetlbfs.
func Line(path string, size bytesize.Size) string {
	return fmt.Sprintf("hugetlbfs %s hugetlbfs pagesize=%v 0 0", mntent.Encode(path), size)
}

// Mount returns the file with a hugetlbfs of that page size at path; nil if it says so already.
func (t *Table) Mount(path string, size bytesize.Size) ([]byte, error) {
	changed, err := t.mount(path, size)
	if err != nil || changed == nil {
		return nil, err
	}
	after, err := Parse(changed)
	if err != nil {
		return nil, err
	}
	if is, ok := after.PageSize(path); !ok || is != size {
		return nil, fmt.Errorf("%w: what would be written does not come out of it as it went in", ErrUnparsable)
	}
	return changed, nil
}

func (t *Table) mount(path string, size bytesize.Size) ([]byte, error) {
	l := t.find(path)
	if l == nil {
		return t.add(Line(path, size)), nil
	}
	if kind := t.text(l.fields[2]); kind != "hugetlbfs" {
		return nil, fmt.Errorf("line %d mounts %s at %s: %w; choose another with --mount", l.number, kind, path, ErrConflict)
	}
	if !t.atBoot(*l) {
		return nil, fmt.Errorf("line %d: %w at boot: it says noauto; take that out by hand, or choose another with --mount", l.number, ErrNotMounted)
	}
	option, is := t.option(*l)
	want := fmt.Sprintf("pagesize=%v", size)
	switch {
	case is == size:
		return nil, nil
	case option.end > option.start:
		return t.splice(option, want), nil
	case len(l.fields) > 3:
		at := l.fields[3].end
		return t.splice(field{at, at}, ","+want), nil
	}
	at := l.fields[2].end
	return t.splice(field{at, at}, " "+want), nil
}

func (t *Table) splice(f field, text string) []byte {
	return append(append(append([]byte{}, t.content[:f.start]...), text...), t.content[f.end:]...)
}

func (t *Table) add(text string) []byte {
	newline := "\n"
	if bytes.Contains(t.content, []byte("\r\n")) {
		newline = "\r\n"
	}
	out := append([]byte{}, t.content...)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, newline...)
	}
	return append(out, text+newline...)
}
