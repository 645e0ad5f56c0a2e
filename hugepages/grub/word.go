package grub

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
)

// maxValue bounds values: references to variables can double them again and again.
const maxValue = 1 << 16

// maxNesting bounds ${a:-${b:-…}}.
const maxNesting = 32

// lexer follows one file.
type lexer struct {
	c       *Config
	file    int
	src     []byte
	i       int
	nesting int

	depth, parens int      // of compound commands and subshells
	conditional   bool     // behind && or || or in a pipeline
	dangling      bool     // nothing but blanks since that operator
	pending       []string // variables assigned in this simple command
}

func (l *lexer) line() int { return 1 + bytes.Count(l.src[:min(l.i, len(l.src))], []byte("\n")) }

func (l *lexer) peek() byte { return l.at(l.i) }

// at is a byte, 0 behind the end. Files with zero bytes are refused before.
func (l *lexer) at(i int) byte {
	if i >= len(l.src) {
		return 0
	}
	return l.src[i]
}

// word is a word of the shell with what it expands to.
type word struct {
	value
	place
}

// word reads to the next blank or operator outside quotes.
func (l *lexer) word() (word, error) {
	w := word{place: place{file: l.file, start: l.i, plain: true, quote: -1}}
	for l.i < len(l.src) {
		c := l.peek()
		if strings.IndexByte(" \t\n;&|<>()", c) >= 0 || c == '\r' && (l.at(l.i+1) == '\n' || l.i+1 == len(l.src)) {
			break
		}
		w.quote = -1
		switch c {
		case '\'', '"':
			w.plain = false
			if err := l.quoted(&w.value); err != nil {
				return w, err
			}
			w.quote = l.i - 1
		case '\\', '$', '`':
			w.plain = false
			if err := l.special(&w.value, false); err != nil {
				return w, err
			}
		default:
			l.literal(&w.value)
		}
		if len(w.chars) > maxValue {
			return w, errors.New("a value is too long")
		}
	}
	w.end = l.i
	if bytes.HasPrefix(l.src[w.start:w.end], []byte("~")) {
		w.opaque = true
	}
	return w, nil
}

func (l *lexer) literal(v *value) {
	v.chars = append(v.chars, char{l.peek(), l.file, l.i})
	l.i++
}

// quoted reads '…' or "…".
func (l *lexer) quoted(v *value) error {
	quote := l.peek()
	l.i++
	for l.i < len(l.src) {
		switch c := l.peek(); {
		case c == quote:
			l.i++
			return nil
		case quote == '"' && (c == '\\' || c == '$' || c == '`'):
			if err := l.special(v, true); err != nil {
				return err
			}
		default:
			l.literal(v)
		}
		if len(v.chars) > maxValue {
			return errors.New("a value is too long")
		}
	}
	return errors.New("a quote is not closed")
}

// special reads a backslash, a reference or a command substitution.
func (l *lexer) special(v *value, inQuotes bool) error {
	switch l.peek() {
	case '\\':
		return l.escape(v, inQuotes)
	case '`':
		v.opaque = true
		l.i++
		return l.skipTo('`')
	}
	switch next := l.at(l.i + 1); {
	case next == '\\' && l.at(l.i+2) == '\n':
		v.opaque = true // a shell joins the lines first
		l.i++
		return nil
	case next == '(':
		v.opaque = true
		l.i += 2
		return l.skipParens()
	case next == '{':
		return l.braces(v, inQuotes)
	case isNameStart(next):
		name := nameAt.Find(l.src[l.i+1:])
		l.i += 1 + len(name)
		v.opaque = v.opaque || l.peek() == '\\' && l.at(l.i+1) == '\n'
		return l.expand(v, string(name))
	case !inQuotes && (next == '\'' || next == '"'):
		v.opaque = true // shells differ
		l.i++
		return nil
	case next != 0 && strings.IndexByte("0123456789?*@#!$-", next) >= 0:
		v.opaque = true
		l.i += 2
		return nil
	}
	l.literal(v)
	return nil
}

func (l *lexer) escape(v *value, inQuotes bool) error {
	next := l.at(l.i + 1)
	switch {
	case l.i+1 >= len(l.src):
		return errors.New("a backslash at the end")
	case next == '\n':
		l.i += 2
	case inQuotes && strings.IndexByte("$`\"\\", next) < 0:
		l.literal(v)
	default:
		l.i++
		l.literal(v)
	}
	return nil
}

var nameAt = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*`)

func isNameStart(c byte) bool { return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// expand adds a variable's value. Those of the generator that no file sets are empty; others may come from the environment.
func (l *lexer) expand(v *value, name string) error {
	known, ok := l.c.vars[name]
	if !ok && !strings.HasPrefix(name, "GRUB_") {
		v.opaque = true
		return nil
	}
	v.opaque = v.opaque || known.opaque
	v.chars = append(v.chars, known.chars...)
	return nil
}

// braces reads ${NAME}, and ${NAME:-word}, ${NAME:+word} with or without the colon.
func (l *lexer) braces(v *value, inQuotes bool) error {
	if l.nesting++; l.nesting > maxNesting {
		return errors.New("references are nested too deeply")
	}
	defer func() { l.nesting-- }()
	name := string(nameAt.Find(l.src[l.i+2:]))
	l.i += 2 + len(name)
	if name == "" {
		return errors.New("a reference of a kind that is not followed here")
	}
	if l.peek() == '}' {
		l.i++
		return l.expand(v, name)
	}
	colon := l.peek() == ':'
	if colon {
		l.i++
	}
	operator := l.peek()
	if operator != '-' && operator != '+' {
		return errors.New("a reference of a kind that is not followed here")
	}
	l.i++
	var other value
	if err := l.untilBrace(&other, inQuotes); err != nil {
		return err
	}
	known, set := l.c.vars[name]
	if known.opaque || !set && !strings.HasPrefix(name, "GRUB_") {
		v.opaque = true
		return nil
	}
	given := set && (!colon || len(known.chars) > 0)
	switch {
	case given && operator == '-':
		other = known
	case !given && operator == '+':
		other = value{}
	}
	v.chars = append(v.chars, other.chars...)
	v.opaque = v.opaque || other.opaque
	return nil
}

func (l *lexer) untilBrace(v *value, inQuotes bool) error {
	for l.i < len(l.src) {
		c := l.peek()
		var err error
		switch {
		case c == '}':
			l.i++
			return nil
		case c == '"' || c == '\'' && !inQuotes:
			if inQuotes {
				return errors.New("quotes inside a quoted reference")
			}
			err = l.quoted(v)
		case c == '\\' && inQuotes && l.at(l.i+1) == '}':
			l.i++
			l.literal(v)
		case c == '\\', c == '$', c == '`':
			err = l.special(v, inQuotes)
		default:
			l.literal(v)
		}
		if err != nil {
			return err
		}
		if len(v.chars) > maxValue {
			return errors.New("a value is too long")
		}
	}
	return errors.New("a brace is not closed")
}

// skipTo passes over a command substitution in backquotes.
func (l *lexer) skipTo(end byte) error {
	for ; l.i < len(l.src); l.i++ {
		switch l.peek() {
		case '\\':
			l.i++
		case end:
			l.i++
			return nil
		}
	}
	return errors.New("a command substitution is not closed")
}

// skipParens passes over a command substitution up to its closing parenthesis.
func (l *lexer) skipParens() error {
	depth := 1
	for l.i < len(l.src) {
		switch l.peek() {
		case '(':
			depth++
		case ')':
			depth--
		case '\\':
			l.i++
		case '\'', '"', '`':
			quote := l.peek()
			l.i++
			if err := l.skipQuoted(quote); err != nil {
				return err
			}
			continue
		}
		l.i++
		if depth == 0 {
			return nil
		}
	}
	return errors.New("a command substitution is not closed")
}

func (l *lexer) skipQuoted(quote byte) error {
	for ; l.i < len(l.src); l.i++ {
		switch c := l.peek(); {
		case c == quote:
			l.i++
			return nil
		case c == '\\' && quote != '\'':
			l.i++
		case c == '$' && quote == '"' && l.at(l.i+1) == '(':
			return errors.New("a command substitution inside another's quotes")
		}
	}
	return errors.New("a quote is not closed")
}
