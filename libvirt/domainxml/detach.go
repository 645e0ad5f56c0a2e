package domainxml

import (
	"fmt"
	"slices"
	"strings"
)

// Detach gives back the description that the domain had before Attach. If other parts of it were changed by hand since, those changes stay and
// only what Attach changed is put back. If what Attach wrote was itself changed, that is ErrChanged, unless force is set.
func Detach(text string, force bool) (Result, error) {
	root, err := parseDomain(text)
	if err != nil {
		return Result{}, err
	}
	n := own(root)
	if n == nil {
		return Result{}, ErrNotAttached
	}
	ports := portsOf(n)
	whole, owned, err := marks(text)
	if err != nil {
		return Result{}, err
	}
	switch {
	case n.attr("whole") == whole:
		original, err := exactly(text, n.attr("back"))
		return Result{original, []string{"everything: as it was before attach"}, ports}, err
	case n.attr("owned") != owned && !force:
		return Result{}, fmt.Errorf("%w: the interfaces or the memory settings are not as attach left them; look at virsh dumpxml, then detach --force "+
			"puts back those interfaces that are still there", ErrChanged)
	}
	parts, err := unpack(n.attr("parts"))
	if err != nil {
		return Result{}, err
	}
	back, changes, err := restore(text, parts)
	return Result{back, changes, ports}, err
}

// exactly goes back to the original, byte for byte.
func exactly(text, back string) (string, error) {
	now, err := without(text)
	if err != nil {
		return "", err
	}
	packed, err := unpack(back)
	if err != nil {
		return "", err
	}
	p, err := decodePatch(packed)
	if err != nil {
		return "", err
	}
	original, err := p.apply(now)
	if err != nil {
		return "", err
	}
	if _, err := parseDomain(original); err != nil {
		return "", fmt.Errorf("what attach kept in the domain's metadata is damaged: %w", err)
	}
	return original, nil
}

// restore puts the parts that Attach changes back as they were in the original, and leaves the rest.
func restore(text, original string) (string, []string, error) {
	text, err := without(text)
	if err != nil {
		return "", nil, err
	}
	root, err := parseDomain(text)
	if err != nil {
		return "", nil, err
	}
	before, err := parseDomain(original)
	if err != nil {
		return "", nil, err
	}
	e := &editor{text: text}
	changes := []string{"other parts of the description were changed since attach: they stay as they are"}
	swap := func(now, then *node, anchor *node, what string) {
		switch {
		case now != nil && then != nil && squeeze(text[now.start:now.end]) != squeeze(original[then.start:then.end]):
			e.replace(now.start, now.end, original[then.start:then.end])
		case now != nil && then == nil:
			e.remove(now)
		case now == nil && then != nil:
			e.after(anchor, original[then.start:then.end])
		default:
			return
		}
		changes = append(changes, what+": as before attach")
	}
	swap(root.find("memoryBacking"), before.find("memoryBacking"), memoryAnchor(root), "memory settings")
	if now, then := root.find("cpu", "numa"), before.find("cpu", "numa"); now != nil && then != nil {
		swap(now, then, nil, "NUMA cells")
	}
	olds := before.find("devices").all("interface")
	for i, now := range root.find("devices").all("interface") {
		is := interfaceOf(i, now)
		at := slices.IndexFunc(olds, func(o *node) bool { return strings.EqualFold(interfaceOf(0, o).MAC, is.MAC) && is.MAC != "" })
		if at < 0 && is.MAC == "" && i < len(olds) {
			at = i
		}
		if at >= 0 {
			swap(now, olds[at], nil, "interface "+is.name())
		}
	}
	dimms := before.find("devices").all("memory")
	if list := root.find("devices").all("memory"); len(list) == len(dimms) {
		for i, now := range list {
			swap(now, dimms[i], nil, fmt.Sprintf("memory device %d", i))
		}
	}
	return e.apply(), changes, nil
}
