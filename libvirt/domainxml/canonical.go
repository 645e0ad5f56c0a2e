package domainxml

import (
	"slices"
	"strings"
)

// canonical writes an element such that neither layout, nor quotes, nor order, nor comments matter. Children named in without are left out.
func canonical(n *node, without ...string) string {
	var attrs, children []string
	for _, a := range n.attrs {
		attrs = append(attrs, " "+qualified(a.Name)+"='"+escapeAttr(a.Value, '\'')+"'")
	}
	slices.Sort(attrs)
	for _, c := range n.children {
		if !slices.Contains(without, c.name) {
			children = append(children, canonical(c))
		}
	}
	slices.Sort(children)
	text := escapeAttr(strings.Join(strings.Fields(n.text), " "), '\'')
	return "<" + n.name + strings.Join(attrs, "") + ">" + text + strings.Join(children, "") + "</>"
}
