package grub

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var assignmentAt = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)(\+?)=`)

// script follows the commands of a file.
func (l *lexer) script() error {
	if bytes.IndexByte(l.src, 0) >= 0 {
		return errors.New("a zero byte")
	}
	start, assigns := true, false // at the start of a command; arguments of export
	for l.i < len(l.src) {
		blank := strings.IndexByte(" \t\r\\#", l.peek()) >= 0
		switch c := l.peek(); {
		case c == ' ' || c == '\t':
			l.i++
		case c == '\\' && l.at(l.i+1) == '\n':
			l.i += 2
		case c == '\r' && (l.at(l.i+1) == '\n' || l.i+1 == len(l.src)):
			l.c.CRLF = true
			l.i++
		case c == '#':
			l.i += lineLength(l.src[l.i:])
		case c == '\n' || c == ';':
			l.i++
			l.conditional = l.dangling && c == '\n' // a && at the end of the line goes on
			l.pending, start, assigns = nil, true, false
			continue
		case c == '<' || c == '>':
			if err := l.redirection(); err != nil {
				return err
			}
		case c == '&' || c == '|' || c == '(' || c == ')':
			if err := l.operator(); err != nil {
				return err
			}
			start, assigns = true, false
			l.dangling = c == '&' || c == '|'
			continue
		case (start || assigns) && assignmentAt.Match(l.src[l.i:]):
			if err := l.assignment(); err != nil {
				return err
			}
			if assigns {
				l.pending = nil // they stay
			}
		case !start:
			if err := l.argument(assigns); err != nil {
				return err
			}
		default:
			var err error
			if start, assigns, err = l.command(); err != nil {
				return err
			}
		}
		l.dangling = l.dangling && blank
	}
	return nil
}

func lineLength(rest []byte) int {
	if n := bytes.IndexByte(rest, '\n'); n >= 0 {
		return n
	}
	return len(rest)
}

func (l *lexer) redirection() error {
	if l.peek() == '<' && l.at(l.i+1) == '<' {
		return errors.New("a here-document")
	}
	for l.i < len(l.src) && bytes.IndexByte([]byte("<>&| \t"), l.peek()) >= 0 {
		l.i++
	}
	_, err := l.word()
	return err
}

// operator reads one of & && | || ( and ).
func (l *lexer) operator() error {
	switch l.peek() {
	case '(':
		l.parens++
	case ')':
		if l.parens == 0 && l.depth == 0 {
			return errors.New("a parenthesis that closes nothing")
		}
		l.parens = max(0, l.parens-1)
	default:
		// What stood before may have run in a process of its own; what follows may not run at all.
		if l.at(l.i+1) != l.peek() {
			if err := l.forget(); err != nil {
				return err
			}
		}
		l.conditional = true
	}
	l.pending = nil
	l.i++
	return nil
}

// forget is for assignments that do not last, or may not.
func (l *lexer) forget() error {
	for _, name := range l.pending {
		if isOurs(name) {
			return fmt.Errorf("%s is set for one command or in a process of its own", name)
		}
		l.c.vars[name] = value{opaque: true}
	}
	l.pending = nil
	return nil
}

func isOurs(name string) bool { return name == Linux || name == Default }

// assignment follows NAME=word and NAME+=word.
func (l *lexer) assignment() error {
	m := assignmentAt.FindSubmatch(l.src[l.i:])
	name, appends := string(m[1]), len(m[2]) > 0
	l.i += len(m[0])
	w, err := l.word()
	if err != nil {
		return err
	}
	unsure := l.depth > 0 || l.parens > 0 || l.conditional
	switch {
	case isOurs(name) && unsure:
		return fmt.Errorf("%s is set in a part that may not run", name)
	case isOurs(name) && w.opaque:
		return fmt.Errorf("%s depends on a command or on the environment", name)
	}
	v := w.value
	if appends {
		old := l.c.vars[name]
		v.chars = append(append([]char{}, old.chars...), v.chars...)
		v.opaque = v.opaque || old.opaque
	}
	if len(v.chars) > maxValue {
		return errors.New("a value is too long")
	}
	v.opaque = v.opaque || unsure
	l.c.vars[name], l.c.last[name] = v, w.place
	l.pending = append(l.pending, name)
	return nil
}

// command reads the first word of a command. It tells whether another command may start behind it, and whether assignments follow.
func (l *lexer) command() (start, assigns bool, err error) {
	if err := l.forget(); err != nil {
		return false, false, err
	}
	w, err := l.word()
	if err != nil {
		return false, false, err
	}
	if w.start == w.end {
		return false, false, fmt.Errorf("an unexpected %q", l.peek())
	}
	switch w.text() {
	case "if", "while", "until", "{":
		l.depth++
		return true, false, nil
	case "case", "for", "select":
		l.depth++
	case "fi", "done", "esac", "}":
		l.depth = max(0, l.depth-1)
	case "then", "else", "elif", "do", "!":
		return true, false, nil
	case "export", "readonly":
		return false, true, nil
	case ".", "source", "eval", "exit", "return", "exec":
		return false, false, fmt.Errorf("the command %q", w.text())
	case "unset", "read", "declare", "typeset", "local", "getopts", "command", "builtin":
		if rest := l.src[l.i:]; bytes.Contains(rest[:lineLength(rest)], []byte(Linux)) {
			return false, false, fmt.Errorf("the command %q with %s", w.text(), Linux)
		}
	}
	if w.opaque || strings.Contains(w.text(), Linux) {
		return false, false, errors.New("a command whose name only a shell can tell")
	}
	return false, false, nil
}

// argument passes over a word of a command.
func (l *lexer) argument(exported bool) error {
	w, err := l.word()
	switch {
	case err != nil:
		return err
	case w.start == w.end:
		return fmt.Errorf("an unexpected %q", l.peek())
	case exported && (w.opaque || strings.Contains(w.text(), "=")):
		return errors.New("export of what only a shell can tell")
	}
	return nil
}
