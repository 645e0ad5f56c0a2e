package grub

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"vhostkit/hugepages/kernelargs"
)

// Change makes the command line say what is wanted and returns the files that change. A file is appended to, or made, only if none sets
// GRUB_CMDLINE_LINUX: that is the first.
func (c *Config) Change(w kernelargs.Wanted) ([]Source, error) {
	line := c.commandLine()
	change, err := kernelargs.Plan(line.text(), w)
	if err != nil || change.Empty() {
		return nil, err
	}
	edits := make([][]rawEdit, len(c.sources))
	if change.Add != "" {
		file, list := c.add(change.Add)
		edits[file] = list
	}
	for _, e := range change.Edits {
		file, raw, err := c.locate(line.chars[e.Start:e.End], e.Text, change.Add != "")
		if err != nil {
			return nil, err
		}
		edits[file] = append(edits[file], raw)
	}
	var changed []Source
	after := slices.Clone(c.sources)
	for i, list := range edits {
		if len(list) == 0 {
			continue
		}
		if after[i].Content, err = applyRaw(c.sources[i], list); err != nil {
			return nil, err
		}
		changed = append(changed, after[i])
	}
	return changed, confirm(after, w)
}

// confirm reads the outcome as if for the first time.
func confirm(after []Source, w kernelargs.Wanted) error {
	c, err := Parse(after...)
	if err != nil {
		return err
	}
	rest, err := kernelargs.Plan(c.CommandLine(), w)
	if err == nil && rest.Empty() {
		return nil
	}
	return fmt.Errorf("%s: %w: what would be written does not come out of it as it went in", after[0].Path, ErrUnparsable)
}

// rawEdit replaces src[start:end].
type rawEdit struct {
	start, end int
	text       string
}

// locate finds a parameter's bytes in a file. They must stand there as they are. wrapped tells that an addition puts quotes around a
// GRUB_CMDLINE_LINUX that has none.
func (c *Config) locate(chars []char, text string, wrapped bool) (int, rawEdit, error) {
	first := chars[0]
	for i, ch := range chars {
		if ch.file != first.file || ch.off != first.off+i || ch.off < 0 {
			return 0, rawEdit{}, fmt.Errorf("%s: %w: a parameter about hugepages is put together of parts", c.sources[max(0, first.file)].Path, ErrUnparsable)
		}
	}
	edit := rawEdit{first.off, first.off + len(chars), text}
	if strings.Contains(text, " ") && c.bareAt(first, wrapped) {
		edit.text = `"` + text + `"`
	}
	return first.file, edit, nil
}

// bareAt tells whether a byte stands in a word without quotes, where a space would end it. The outcome is read again in any case.
func (c *Config) bareAt(at char, wrapped bool) bool {
	for _, name := range []string{Linux, Default} {
		if p, ok := c.last[name]; ok && p.file == at.file && p.start <= at.off && at.off < p.end {
			return p.plain && !(wrapped && name == Linux)
		}
	}
	return false
}

// add puts parameters behind what GRUB_CMDLINE_LINUX holds.
func (c *Config) add(text string) (file int, edits []rawEdit) {
	p, ok := c.last[Linux]
	if !ok {
		return 0, []rawEdit{c.newLine(text)}
	}
	if held := c.vars[Linux].text(); held != "" && !strings.HasSuffix(held, " ") {
		text = " " + text
	}
	switch {
	case p.quote >= 0:
		return p.file, []rawEdit{{p.quote, p.quote, text}}
	case p.plain:
		return p.file, []rawEdit{{p.start, p.start, `"`}, {p.end, p.end, text + `"`}}
	}
	return p.file, []rawEdit{{p.end, p.end, `"` + text + `"`}}
}

func (c *Config) newLine(text string) rawEdit {
	src := c.sources[0].Content
	newline := "\n"
	if c.CRLF {
		newline = "\r\n"
	}
	line := Linux + `="` + text + `"` + newline
	if len(src) > 0 && src[len(src)-1] != '\n' {
		line = newline + line
	}
	return rawEdit{len(src), len(src), line}
}

func applyRaw(s Source, edits []rawEdit) ([]byte, error) {
	sort.SliceStable(edits, func(i, k int) bool { return edits[i].start < edits[k].start })
	var out []byte
	at := 0
	for _, e := range edits {
		if e.start < at {
			return nil, fmt.Errorf("%s: %w: one parameter counts twice", s.Path, ErrUnparsable)
		}
		out = append(append(out, s.Content[at:e.start]...), e.text...)
		at = e.end
	}
	return append(out, s.Content[at:]...), nil
}
