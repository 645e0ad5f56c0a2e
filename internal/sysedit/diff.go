package sysedit

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"
)

// Diff is the unified diff of two texts, empty if they are equal.
func Diff(oldName, newName string, before, after []byte) string {
	if bytes.Equal(before, after) {
		return ""
	}
	text := string(diff.Diff(oldName, before, newName, after))
	// The library begins with a line of the command that it stands for.
	if first, rest, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(first, "diff ") {
		return rest
	}
	return text
}

// Diff shows what Apply will do: unified diffs, and a line for each file whose mode or owner changes or whose content is no text. Paths that
// mean nothing to an operator can be left out.
func (p *Plan) Diff(except ...string) string {
	var b strings.Builder
	for _, c := range p.changes {
		if slices.Contains(except, c.path) {
			continue
		}
		oldName, newName := "a"+c.path, "b"+c.path
		if !c.old.exists {
			oldName = "/dev/null"
		}
		if !c.new.exists {
			newName = "/dev/null"
		}
		switch {
		case c.old.exists && c.new.exists && (c.old.mode != c.new.mode || c.old.uid != c.new.uid || c.old.gid != c.new.gid):
			fmt.Fprintf(&b, "mode and owner of %s: %04o %d:%d → %04o %d:%d\n", c.path, c.old.mode, c.old.uid, c.old.gid, c.new.mode, c.new.uid, c.new.gid)
		case !c.old.exists:
			fmt.Fprintf(&b, "new file %s: mode %04o, owner %d:%d, %d bytes\n", c.path, c.new.mode, c.new.uid, c.new.gid, len(c.new.content))
		case !c.new.exists:
			fmt.Fprintf(&b, "file %s is removed\n", c.path)
		}
		if !isText(c.old.content) || !isText(c.new.content) {
			fmt.Fprintf(&b, "binary file %s: %d → %d bytes\n", c.path, len(c.old.content), len(c.new.content))
			continue
		}
		b.WriteString(Diff(oldName, newName, c.old.content, c.new.content))
	}
	return b.String()
}

func isText(data []byte) bool { return utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 }
