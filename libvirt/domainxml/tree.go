package domainxml

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// node is an element and where it stands in the text.
type node struct {
	name     string // with its prefix, as written
	attrs    []xml.Attr
	children []*node
	parent   *node

	start, open int // the start tag is text[start:open]
	close, end  int // the end tag is text[close:end]; the same as open for an empty-element tag
	text        string
}

// maxDepth bounds the nesting of elements.
const maxDepth = 100

// maxText bounds the length of a description, in bytes: the limit of a string in libvirt's protocol.
const maxText = 4 << 20

// parse reads the elements of a document and where they stand.
func parse(text string) (*node, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("the domain's XML is not UTF-8")
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("the domain's XML: %d bytes, and at most %d are read", len(text), maxText)
	}
	d := xml.NewDecoder(strings.NewReader(text))
	d.CharsetReader = func(charset string, _ io.Reader) (io.Reader, error) {
		return nil, fmt.Errorf("character set %s: want UTF-8", charset)
	}
	root := &node{}
	at, depth := root, 0
	for {
		begin := int(d.InputOffset())
		t, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("the domain's XML: %w", err)
		}
		end := int(d.InputOffset())
		switch t := t.(type) {
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return nil, fmt.Errorf("the domain's XML: more than %d elements within each other", maxDepth)
			}
			// The decoder makes two tokens of an empty-element tag, the second of no length.
			if err := distinct(t.Attr); err != nil {
				return nil, fmt.Errorf("the domain's XML: <%s>: %w", qualified(t.Name), err)
			}
			n := &node{name: qualified(t.Name), attrs: t.Copy().Attr, parent: at, start: begin, open: end, close: end, end: end}
			at.children = append(at.children, n)
			at = n
		case xml.EndElement:
			if at == root || at.name != qualified(t.Name) {
				return nil, fmt.Errorf("the domain's XML: </%s> ends nothing", qualified(t.Name))
			}
			at.close, at.end = begin, end
			at = at.parent
			depth--
		case xml.CharData:
			if at == root && strings.TrimSpace(string(t)) != "" {
				return nil, errors.New("the domain's XML: text outside of the outermost element")
			}
			at.text += string(t)
		case xml.Directive:
			return nil, errors.New("the domain's XML has a document type, which libvirt's never have")
		}
	}
	if at != root {
		return nil, fmt.Errorf("the domain's XML: <%s> does not end", at.name)
	}
	if len(root.children) != 1 {
		return nil, fmt.Errorf("the domain's XML has %d outermost elements", len(root.children))
	}
	return root.children[0], nil
}

// distinct refuses attributes that are there twice, which the decoder takes and libvirt does not.
func distinct(attrs []xml.Attr) error {
	for i, a := range attrs {
		for _, b := range attrs[:i] {
			if a.Name == b.Name {
				return fmt.Errorf("attribute %s twice", qualified(a.Name))
			}
		}
	}
	return nil
}

func qualified(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

// all lists the children of a name.
func (n *node) all(name string) (list []*node) {
	if n == nil {
		return nil
	}
	for _, c := range n.children {
		if c.name == name {
			list = append(list, c)
		}
	}
	return list
}

// find follows a path of names from the node down, or gives nil.
func (n *node) find(path ...string) *node {
	for _, name := range path {
		list := n.all(name)
		if len(list) == 0 {
			return nil
		}
		n = list[0]
	}
	return n
}

// attr is an attribute's value, "" if there is none. A nil node has none.
func (n *node) attr(name string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.attrs {
		if qualified(a.Name) == name {
			return a.Value
		}
	}
	return ""
}

// empty tells whether the element is written as an empty-element tag.
func (n *node) empty() bool { return n.end == n.open }
