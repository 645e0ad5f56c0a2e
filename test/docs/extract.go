// Package docs checks the documents: each command that they show is run by a test, or marked as not and parsed at
// least; links lead somewhere.
//
// A comment before a block says how it is checked:
//
//	<!-- test: run -->              a shell script beside a running switchd, in a sandbox
//	<!-- test: serve -->            starts a switchd that answers on its control socket
//	<!-- test: switchd.toml -->     settings that switchd --check-config takes
//	<!-- test: guest -->            QEMU's command line: TestFirstGuests of test/e2e types it
//	<!-- not run: why -->           its commands of this project are parsed
//
// A block of kind text holds no command and needs no comment.
package docs

import (
	"fmt"
	"regexp"
	"strings"
)

// Block is a fenced block of a document.
type Block struct {
	File string
	Line int    // of its fence
	Kind string // the info string: sh, text, toml
	Text string
	Test string // "run", "serve", …; empty if it is not run
	Why  string // it is not run
}

func (b Block) String() string { return fmt.Sprintf("%s:%d", b.File, b.Line) }

var comment = regexp.MustCompile(`^\s*<!-- (test|not run): (.+) -->$`)

// Blocks finds the blocks of a document. One that does not say how it is checked is an error.
func Blocks(file, text string) (blocks []Block, err error) {
	var b *Block
	var test, why, indent string
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case b != nil && trimmed == "```":
			blocks = append(blocks, *b)
			b = nil
		case b != nil:
			b.Text += strings.TrimPrefix(line, indent) + "\n"
		case strings.HasPrefix(trimmed, "```"):
			indent, _, _ = strings.Cut(line, "`")
			b = &Block{File: file, Line: i + 1, Kind: trimmed[3:], Test: test, Why: why}
			if b.Kind == "" || b.Kind != "text" && test == "" && why == "" {
				return nil, fmt.Errorf("%v: the block has no kind, or no comment that says how it is checked", b)
			}
			test, why = "", ""
		case comment.MatchString(line):
			m := comment.FindStringSubmatch(line)
			if m[1] == "test" {
				test = m[2]
			} else {
				why = m[2]
			}
		case trimmed != "":
			test, why = "", ""
		}
	}
	if b != nil {
		return nil, fmt.Errorf("%v: the block does not end", b)
	}
	return blocks, nil
}

// Commands splits a script into its commands, each into words: comments, pipes and redirections end one; "\" joins
// lines.
func Commands(script string) (commands [][]string) {
	var words []string
	word, quoted := "", false
	end := func() {
		if word != "" || quoted {
			words = append(words, word)
		}
		word, quoted = "", false
	}
	next := func() {
		if end(); len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	script = strings.ReplaceAll(script, "\\\n", " ")
	for i := 0; i < len(script); i++ {
		switch c := script[i]; c {
		case ' ', '\t':
			end()
		case '\n', '|', ';', '&', '>':
			next()
			if c == '>' { // the file's name is no command
				for i++; i < len(script) && strings.IndexByte(" \n|;&", script[i]) < 0; i++ {
				}
				i--
			}
		case '#':
			if word != "" {
				word += "#"
				continue
			}
			for i+1 < len(script) && script[i+1] != '\n' {
				i++
			}
		case '"', '\'':
			quoted = true
			for i++; i < len(script) && script[i] != c; i++ {
				word += string(script[i])
			}
		default:
			word += string(c)
		}
	}
	next()
	return commands
}

// Ours is a command without sudo, variables and the program's directory; ok tells whether it is one of this project's
// programs, or make.
func Ours(words []string) (command []string, ok bool) {
	for len(words) > 0 && (words[0] == "sudo" || regexp.MustCompile(`^[A-Z_]+=`).MatchString(words[0])) {
		words = words[1:]
	}
	if len(words) == 0 {
		return nil, false
	}
	words = append([]string{strings.TrimPrefix(words[0], "bin/")}, words[1:]...)
	switch words[0] {
	case "vhostctl", "switchd", "qemu-wrap", "make":
		return words, true
	}
	return words, false
}
