// Package qemuconf edits libvirt's qemu.conf, keeping every byte that it does not own.
package qemuconf

import (
	"errors"
	"fmt"
	"strings"
)

// ErrSyntax says that the file is not written as libvirt's configuration files are. It is not touched then.
var ErrSyntax = errors.New("cannot read qemu.conf")

// statement is NAME = VALUE, with its places in the text.
type statement struct {
	name       string
	start, end int // of the whole, without the end of the line
	value      value
}

// value is a number, a string or a list of them.
type value struct {
	start, end int
	text       string // of a number or string
	list       []value
	isList     bool
}

// parser reads a configuration file: one statement a line, lists may go over several, "#" begins a comment.
type parser struct {
	text string
	at   int
}

// parse lists the statements of a text.
func parse(text string) ([]statement, error) {
	p := &parser{text: text}
	var list []statement
	for {
		p.skip(" \t\r\n", true)
		if p.at == len(text) {
			return list, nil
		}
		s := statement{start: p.at}
		for p.at < len(text) && isName(text[p.at]) {
			p.at++
		}
		if s.name = text[s.start:p.at]; s.name == "" {
			return nil, p.fail("want a name")
		}
		p.skip(" \t", false)
		if !p.take('=') {
			return nil, p.fail("want = behind " + s.name)
		}
		p.skip(" \t", false)
		v, err := p.value(true)
		if err != nil {
			return nil, err
		}
		s.value, s.end = v, p.at
		p.skip(" \t\r", false)
		if p.at < len(text) && text[p.at] != '\n' && text[p.at] != '#' {
			return nil, p.fail("something follows the value of " + s.name)
		}
		list = append(list, s)
	}
}

func isName(c byte) bool {
	return c == '_' || c == '-' || c == '.' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

func (p *parser) fail(what string) error {
	return fmt.Errorf("%w: line %d: %s", ErrSyntax, 1+strings.Count(p.text[:p.at], "\n"), what)
}

func (p *parser) take(c byte) bool {
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

// skip passes over characters, and comments where they may stand.
func (p *parser) skip(chars string, comments bool) {
	for p.at < len(p.text) {
		c := p.text[p.at]
		switch {
		case strings.IndexByte(chars, c) >= 0:
			p.at++
		case comments && c == '#':
			for p.at < len(p.text) && p.text[p.at] != '\n' {
				p.at++
			}
		default:
			return
		}
	}
}

func (p *parser) value(lists bool) (value, error) {
	v := value{start: p.at}
	if p.at == len(p.text) {
		return v, p.fail("want a value")
	}
	switch c := p.text[p.at]; {
	case c == '[' && lists:
		return p.list()
	case c == '"' || c == '\'':
		return p.quoted(c)
	case c >= '0' && c <= '9' || c == '-':
		for p.at < len(p.text) && (p.text[p.at] >= '0' && p.text[p.at] <= '9' || p.text[p.at] == '-') {
			p.at++
		}
		v.text, v.end = p.text[v.start:p.at], p.at
		return v, nil
	}
	return v, p.fail("want a number, a string or a list")
}

func (p *parser) quoted(quote byte) (value, error) {
	v := value{start: p.at}
	mark := string(quote)
	if quote == '"' && strings.HasPrefix(p.text[p.at:], `"""`) {
		mark = `"""`
	}
	rest := p.text[p.at+len(mark):]
	n := strings.Index(rest, mark)
	if n < 0 || len(mark) == 1 && strings.Contains(rest[:n], "\n") {
		return v, p.fail("a string does not end")
	}
	p.at += n + 2*len(mark)
	v.text, v.end = rest[:n], p.at
	return v, nil
}

func (p *parser) list() (value, error) {
	v := value{start: p.at, isList: true}
	p.at++
	for {
		p.skip(" \t\r\n", true)
		if p.take(']') {
			v.end = p.at
			return v, nil
		}
		item, err := p.value(false)
		if err != nil {
			return v, err
		}
		v.list = append(v.list, item)
		p.skip(" \t\r\n", true)
		if !p.take(',') && (p.at == len(p.text) || p.text[p.at] != ']') {
			return v, p.fail("a list does not go on with , or end with ]")
		}
	}
}
