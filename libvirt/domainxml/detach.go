package domainxml

import (
	"fmt"
	"strings"
)

// Detach puts every piece that Attach changed back as it was, byte by byte, and nothing else: what was changed elsewhere in the description
// since then stays. If a piece itself is not as Attach left it, that is ErrChanged, unless force is set.
func Detach(text string, force bool) (Result, error) {
	root, err := parseDomain(text)
	if err != nil {
		return Result{}, err
	}
	n := own(root)
	if n == nil {
		return Result{}, ErrNotAttached
	}
	r, err := recordOf(n)
	if err != nil {
		return Result{}, err
	}
	d := &detachment{editor: editor{text: text}}
	nodes := match(root, r.Pieces)
	for k, p := range r.Pieces {
		if now := nodes[k]; now == nil || p.sum(now) != p.Sum {
			d.touched = append(d.touched, p.String())
		}
	}
	if len(d.touched) > 0 && !force {
		return Result{}, fmt.Errorf("%w: %s; see virsh dumpxml; vhostctl detach --force reverts what of it is still there",
			ErrChanged, strings.Join(d.touched, ", "))
	}
	for k, p := range r.Pieces {
		d.restore(root, p, nodes[k])
	}
	d.forget(n, r)
	back := d.apply()
	if _, err := parseDomain(back); err != nil {
		return Result{}, fmt.Errorf("the restored description is not well formed, which is an error of this program: %w", err)
	}
	return Result{back, d.told, portsOf(n)}, nil
}

// detachment is one Detach under way.
type detachment struct {
	editor
	touched []string // pieces that were changed by hand
	told    []string
}

// restore puts one piece back.
func (d *detachment) restore(root *node, p piece, now *node) {
	what := "as before attach"
	switch {
	case now == nil && p.Kind == pieceBacking && p.Was != "":
		d.after(memoryAnchor(root), p.Was)
	case now == nil:
		what = "is gone, nothing to revert"
	case p.attribute() != "":
		if start, end, ok := findAttr(d.text[now.start:now.open], p.attribute()); ok {
			d.replace(now.start+start, now.start+end, p.Was)
		} else {
			what = "has no setting any more, which stays so"
		}
	case p.Was == "":
		d.remove(now)
		what = "removed, as there were none before attach"
	default:
		d.replace(now.start, now.end, p.Was)
	}
	d.told = append(d.told, p.String()+": "+what)
}

// forget takes our element out of the metadata.
func (d *detachment) forget(n *node, r record) {
	meta := n.parent
	switch alone := len(meta.children) == 1 && strings.TrimSpace(meta.text) == ""; {
	case r.Metadata != nil && len(meta.children) == 1:
		d.replace(meta.start, meta.end, *r.Metadata)
	case alone:
		d.remove(meta)
	default:
		d.remove(n)
		if rest := d.text[n.end:meta.close]; r.OneLine && strings.TrimSpace(rest) == "" {
			d.replace(n.end, meta.close, "")
		}
	}
}
