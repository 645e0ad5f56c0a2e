// Package bls reads and changes kernel command lines that stand in files as they are: boot loader entries ("options" lines) and
// /etc/kernel/cmdline.
//
// Source: the Boot Loader Specification of UAPI.1, type #1 entries; kernel-install(8).
package bls

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"vhostkit/hugepages/kernelargs"
)

// ErrUnparsable says that a file holds something that this package does not follow.
var ErrUnparsable = errors.New("cannot be changed safely")

// span is a part of a file that belongs to the command line.
type span struct{ start, end int }

// Entry is a boot loader entry.
type Entry struct {
	content []byte
	options []span // the values of its options lines
}

// ParseEntry reads an entry.
func ParseEntry(content []byte) (*Entry, error) {
	e := &Entry{content: content}
	if bytes.IndexByte(content, 0) >= 0 {
		return nil, fmt.Errorf("%w: a zero byte", ErrUnparsable)
	}
	kernel := false
	for at := 0; at < len(content); {
		end := at + lineLength(content[at:])
		line := content[at:end]
		key := bytes.TrimLeft(line, " \t")
		value := bytes.TrimLeft(key[keyLength(key):], " \t")
		key = key[:keyLength(key)]
		switch string(key) {
		case "options":
			start := end - len(value)
			e.options = append(e.options, span{start, start + len(bytes.TrimRight(value, " \t\r"))})
		case "linux", "efi", "uki":
			kernel = true
		}
		at = end + 1
	}
	if !kernel {
		return nil, fmt.Errorf("%w: it names no kernel, so it is no boot loader entry", ErrUnparsable)
	}
	return e, nil
}

func keyLength(line []byte) int {
	if n := bytes.IndexAny(line, " \t\r"); n >= 0 {
		return n
	}
	return len(line)
}

func lineLength(rest []byte) int {
	if n := bytes.IndexByte(rest, '\n'); n >= 0 {
		return n
	}
	return len(rest)
}

// CommandLine joins the options as a boot loader does.
func (e *Entry) CommandLine() string { return join(e.content, e.options) }

// Indirect tells that the command line comes from GRUB's environment (kernelopts), which only the generator changes.
func (e *Entry) Indirect() bool { return strings.Contains(e.CommandLine(), "$kernelopts") }

// Change returns the entry with what is wanted in its options; nil if they say it already.
func (e *Entry) Change(w kernelargs.Wanted) ([]byte, error) {
	changed, err := change(e.content, e.options, w, "options ")
	if err != nil || changed == nil {
		return nil, err
	}
	after, err := ParseEntry(changed)
	if err == nil {
		err = confirm(after.CommandLine(), w)
	}
	return changed, err
}

// CommandLine reads /etc/kernel/cmdline: lines are joined, those that begin with # are comments.
func CommandLine(content []byte) (string, error) {
	spans, err := cmdlineSpans(content)
	return join(content, spans), err
}

// ChangeCommandLine returns /etc/kernel/cmdline with what is wanted; nil if it says it already.
func ChangeCommandLine(content []byte, w kernelargs.Wanted) ([]byte, error) {
	spans, err := cmdlineSpans(content)
	if err != nil {
		return nil, err
	}
	changed, err := change(content, spans, w, "")
	if err != nil || changed == nil {
		return nil, err
	}
	line, err := CommandLine(changed)
	if err == nil {
		err = confirm(line, w)
	}
	return changed, err
}

func cmdlineSpans(content []byte) ([]span, error) {
	if bytes.IndexByte(content, 0) >= 0 {
		return nil, fmt.Errorf("%w: a zero byte", ErrUnparsable)
	}
	var spans []span
	for at := 0; at < len(content); {
		end := at + lineLength(content[at:])
		line := content[at:end]
		if text := bytes.TrimRight(line, " \t\r"); len(text) > 0 && bytes.TrimLeft(line, " \t")[0] != '#' {
			spans = append(spans, span{at, at + len(text)})
		}
		at = end + 1
	}
	return spans, nil
}

func join(content []byte, spans []span) string {
	parts := make([]string, len(spans))
	for i, s := range spans {
		parts[i] = string(content[s.start:s.end])
	}
	return strings.Join(parts, " ")
}

// change edits the spans; what is added goes behind the last one, or on a new line behind the file.
func change(content []byte, spans []span, w kernelargs.Wanted, prefix string) ([]byte, error) {
	c, err := kernelargs.Plan(join(content, spans), w)
	if err != nil || c.Empty() {
		return nil, err
	}
	var out []byte
	at, joined := 0, 0
	for i, s := range spans {
		out = append(out, content[at:s.start]...)
		at = s.start
		end := joined + s.end - s.start
		for _, e := range c.Edits {
			if e.Start < joined || e.Start >= end {
				continue
			}
			if e.End > end {
				return nil, fmt.Errorf("%w: a parameter goes over the end of a line", ErrUnparsable)
			}
			start := s.start + e.Start - joined
			out = append(append(out, content[at:start]...), e.Text...)
			at = start + e.End - e.Start
		}
		out = append(out, content[at:s.end]...)
		at = s.end
		if i == len(spans)-1 && c.Add != "" {
			if s.end > s.start || prefix != "" && content[s.start-1] != ' ' && content[s.start-1] != '\t' {
				out = append(out, ' ')
			}
			out = append(out, c.Add...)
		}
		joined = end + 1
	}
	out = append(out, content[at:]...)
	if len(spans) == 0 {
		if len(out) > 0 && out[len(out)-1] != '\n' {
			out = append(out, '\n')
		}
		out = append(out, prefix+c.Add+"\n"...)
	}
	return out, nil
}

func confirm(line string, w kernelargs.Wanted) error {
	rest, err := kernelargs.Plan(line, w)
	if err == nil && rest.Empty() {
		return nil
	}
	return fmt.Errorf("%w: what would be written does not come out of it as it went in", ErrUnparsable)
}
