package domainxml

import (
	"sort"
	"strings"
)

// change is a stretch of the text and what comes in its place.
type change struct {
	start, end int
	text       string
}

// editor collects changes of a text. They must not overlap.
type editor struct {
	text    string
	changes []change
}

func (e *editor) replace(start, end int, text string) {
	e.changes = append(e.changes, change{start, end, text})
}

// apply makes the changes.
func (e *editor) apply() string {
	sort.SliceStable(e.changes, func(i, j int) bool { return e.changes[i].start < e.changes[j].start })
	var b strings.Builder
	at := 0
	for _, c := range e.changes {
		b.WriteString(e.text[at:c.start])
		b.WriteString(c.text)
		at = c.end
	}
	b.WriteString(e.text[at:])
	return b.String()
}

// indent is the white space before an element, from the line's beginning; "" if something else stands before it.
func (e *editor) indent(n *node) string {
	i := n.start
	for i > 0 && (e.text[i-1] == ' ' || e.text[i-1] == '\t') {
		i--
	}
	if i > 0 && e.text[i-1] != '\n' {
		return ""
	}
	return e.text[i:n.start]
}

// remove takes an element out, with the line it stood on if there was nothing else on it.
func (e *editor) remove(n *node) {
	start := n.start - len(e.indent(n))
	if start > 0 && e.text[start-1] == '\n' {
		start--
		if start > 0 && e.text[start-1] == '\r' {
			start--
		}
	} else {
		start = n.start
	}
	e.replace(start, n.end, "")
}

// add puts lines at the end of an element's content, indented as its children are.
func (e *editor) add(n *node, lines ...string) {
	outer := e.indent(n)
	inner := outer + "  "
	if len(n.children) > 0 {
		if i := e.indent(n.children[0]); i != "" {
			inner = i
		}
	}
	text := ""
	for _, l := range lines {
		text += "\n" + inner + l
	}
	if n.empty() { // <a/> becomes <a>…</a>
		slash := strings.LastIndexByte(e.text[n.start:n.open], '/') + n.start
		e.replace(slash, n.open, ">"+text+"\n"+outer+"</"+n.name+">")
		return
	}
	at := n.close
	for at > n.open && strings.IndexByte(" \t\r\n", e.text[at-1]) >= 0 {
		at--
	}
	if at == n.close { // on one line
		text += "\n" + outer
	}
	e.replace(at, at, text)
}

// after puts lines behind an element, indented as it is.
func (e *editor) after(n *node, lines ...string) {
	text := ""
	for _, l := range lines {
		text += "\n" + e.indent(n) + l
	}
	e.replace(n.end, n.end, text)
}

// setAttr gives an element's attribute a value, in place if it is there.
func (e *editor) setAttr(n *node, name, value string) {
	tag := e.text[n.start:n.open]
	if start, end, ok := findAttr(tag, name); ok {
		quote := tag[start-1]
		e.replace(n.start+start, n.start+end, escapeAttr(value, quote))
		return
	}
	at := n.open - 1
	if n.empty() {
		at = n.start + strings.LastIndexByte(tag, '/')
	}
	for at > n.start && strings.IndexByte(" \t\r\n", e.text[at-1]) >= 0 {
		at--
	}
	e.replace(at, at, " "+name+"='"+escapeAttr(value, '\'')+"'")
}

// findAttr finds the value of an attribute in a well-formed start tag, without its quotes.
func findAttr(tag, name string) (start, end int, ok bool) {
	const space = " \t\r\n"
	i := 1
	for i < len(tag) && strings.IndexByte(space+"/>", tag[i]) < 0 { // the element's name
		i++
	}
	for {
		for i < len(tag) && strings.IndexByte(space, tag[i]) >= 0 {
			i++
		}
		begin := i
		for i < len(tag) && strings.IndexByte(space+"=/>", tag[i]) < 0 {
			i++
		}
		if begin == i {
			return 0, 0, false
		}
		found := tag[begin:i]
		for i < len(tag) && strings.IndexByte(space+"=", tag[i]) >= 0 {
			i++
		}
		if i >= len(tag) {
			return 0, 0, false
		}
		quote := tag[i]
		length := strings.IndexByte(tag[i+1:], quote)
		if length < 0 || quote != '\'' && quote != '"' {
			return 0, 0, false
		}
		if found == name {
			return i + 1, i + 1 + length, true
		}
		i += length + 2
	}
}

func escapeAttr(s string, quote byte) string {
	r := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\n", "&#10;", "\t", "&#9;", "\r", "&#13;")
	s = r.Replace(s)
	if quote == '"' {
		return strings.ReplaceAll(s, `"`, "&quot;")
	}
	return strings.ReplaceAll(s, "'", "&apos;")
}
