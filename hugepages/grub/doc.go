// Package grub reads and changes the settings of GRUB's configuration generator: /etc/default/grub and the files of /etc/default/grub.d.
//
// These are scripts for the POSIX shell. The package follows their assignments as a shell does (quoting, continuation lines, references to
// other variables, +=, the last one counts), and knows for each byte of a value where in which file it stands. What it cannot follow and
// what could matter is refused: ErrUnparsable. Bytes that do not belong to parameters about hugepages are never changed.
package grub

import (
	"errors"
	"fmt"
)

// Variables that make the kernel's command line, in this order. In recovery entries only the first is used.
const (
	Linux   = "GRUB_CMDLINE_LINUX"
	Default = "GRUB_CMDLINE_LINUX_DEFAULT"
)

// ErrUnparsable says that a file holds something that this package does not follow.
var ErrUnparsable = errors.New("cannot be changed safely")

// Source is one file.
type Source struct {
	Path    string
	Content []byte
}

// char is a byte of a value and where it stands.
type char struct {
	b         byte
	file, off int
}

// value is what a variable holds.
type value struct {
	chars  []char
	opaque bool // it depends on what only a shell can tell
}

func (v value) text() string {
	b := make([]byte, len(v.chars))
	for i, c := range v.chars {
		b[i] = c.b
	}
	return string(b)
}

// place is where the last assignment of a variable has its value.
type place struct {
	file       int
	start, end int // of the word
	plain      bool
	quote      int // offset of the quote that closes the word; -1: it does not end with a quoted part
}

// Config is the outcome of the files.
type Config struct {
	sources []Source
	vars    map[string]value
	last    map[string]place
	// CRLF tells that lines end as on DOS, which a shell takes as part of what stands there.
	CRLF bool
}

// Parse follows the files in the order in which the generator reads them.
func Parse(sources ...Source) (*Config, error) {
	c := &Config{sources: sources, vars: map[string]value{}, last: map[string]place{}}
	for i, s := range sources {
		l := &lexer{c: c, file: i, src: s.Content}
		if err := l.script(); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w: %w", s.Path, l.line(), ErrUnparsable, err)
		}
	}
	return c, nil
}

// Value is what a variable holds in the end; empty where it is not set or depends on what only a shell can tell.
func (c *Config) Value(name string) string {
	if c.vars[name].opaque {
		return ""
	}
	return c.vars[name].text()
}

// CommandLine is what the generator puts behind the kernel in a normal entry.
func (c *Config) CommandLine() string { return c.commandLine().text() }

func (c *Config) commandLine() value {
	a, b := c.vars[Linux], c.vars[Default]
	joined := append(append(append([]char{}, a.chars...), char{' ', -1, -1}), b.chars...)
	return value{joined, a.opaque || b.opaque}
}
