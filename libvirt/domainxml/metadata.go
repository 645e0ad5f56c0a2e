package domainxml

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Our element in the domain's <metadata> holds the ports that the domain was given, and the record of what was there before.
const (
	prefix    = "vhostkit"
	namespace = "urn:vhostkit:domain:1"
)

// Errors of Detach.
var (
	// ErrNotAttached says that the domain was not changed by Attach.
	ErrNotAttached = errors.New("the domain is not attached")
	// ErrChanged says that what Attach wrote was changed by hand since.
	ErrChanged = errors.New("what attach wrote was changed by hand since")
)

// own finds our element in the metadata.
func own(root *node) *node {
	n := root.find("metadata", prefix+":domain")
	if n == nil || n.attr("xmlns:"+prefix) != namespace {
		return nil
	}
	return n
}

// recordOf reads the record in it.
func recordOf(n *node) (record, error) { return unpack(textOf(n.find(prefix + ":original"))) }

// sum names a text.
func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// remember puts our element into a rewritten description: what was changed (by an earlier Attach, too), and the ports.
func remember(original, rewritten string, ports []Port) (string, error) {
	root, err := parseDomain(rewritten)
	if err != nil {
		return "", fmt.Errorf("the rewritten description is not well formed, which is an error of this program: %w", err)
	}
	pieces, err := differences(original, rewritten)
	if err != nil {
		return "", err
	}
	e := &editor{text: rewritten}
	n, meta := own(root), root.find("metadata")
	if n != nil {
		r, err := recordOf(n)
		if err != nil {
			return "", err
		}
		r.merge(root, pieces)
		lines, err := element(r, withOld(n, ports))
		if err != nil {
			return "", err
		}
		e.replace(n.start, n.end, strings.Join(lines, "\n"+e.indent(n)))
		return e.apply(), nil
	}
	r := record{Pieces: pieces}
	if meta != nil {
		r.OneLine = strings.TrimRight(rewritten[meta.open:meta.close], " \t\r\n") == rewritten[meta.open:meta.close]
		if len(meta.children) == 0 {
			was := rewritten[meta.start:meta.end]
			r.Metadata = &was
		}
	}
	lines, err := element(r, ports)
	if err != nil {
		return "", err
	}
	if meta != nil {
		e.add(meta, lines...)
		return e.apply(), nil
	}
	for i := range lines {
		lines[i] = "  " + lines[i]
	}
	e.after(metadataAnchor(root), append(append([]string{"<metadata>"}, lines...), "</metadata>")...)
	return e.apply(), nil
}

// merge adds what one more Attach has changed. What was there before the first one stays known.
func (r *record) merge(root *node, pieces []piece) {
	known := match(root, r.Pieces)
	at := map[*node]int{}
	for k, n := range known {
		if n != nil {
			at[n] = k
		}
	}
	for k, n := range match(root, pieces) {
		p := pieces[k]
		if i, ok := at[n]; ok {
			p.Was = r.Pieces[i].Was
			p.Sum = p.sum(n)
			r.Pieces[i] = p
			continue
		}
		r.Pieces = append(r.Pieces, p)
	}
}

// withOld adds the ports that the domain has already.
func withOld(n *node, ports []Port) []Port {
	for _, old := range portsOf(n) {
		known := false
		for _, p := range ports {
			known = known || p.Socket == old.Socket || p.MAC == old.MAC && p.MAC != ""
		}
		if !known {
			ports = append(ports, old)
		}
	}
	return ports
}

func portsOf(n *node) (ports []Port) {
	for _, p := range n.all(prefix + ":port") {
		ports = append(ports, Port{p.attr("name"), p.attr("mac"), p.attr("socket")})
	}
	return ports
}

func element(r record, ports []Port) ([]string, error) {
	packed, err := r.pack()
	if err != nil {
		return nil, err
	}
	lines := []string{fmt.Sprintf("<%s:domain xmlns:%s='%s'>", prefix, prefix, namespace)}
	for _, p := range ports {
		lines = append(lines, fmt.Sprintf("  <%s:port name='%s' mac='%s' socket='%s'/>", prefix, escapeAttr(p.Name, '\''), escapeAttr(p.MAC, '\''),
			escapeAttr(p.Socket, '\'')))
	}
	return append(lines, fmt.Sprintf("  <%s:original>%s</%s:original>", prefix, packed, prefix), fmt.Sprintf("</%s:domain>", prefix)), nil
}

// metadataAnchor is the element behind which metadata stands in what libvirt writes.
func metadataAnchor(root *node) *node {
	anchor := root.find("name")
	for _, name := range []string{"uuid", "genid", "title", "description"} {
		if n := root.find(name); n != nil {
			anchor = n
		}
	}
	return anchor
}

// Seal notes in our element what the pieces are now. Layout does not matter for that; but libvirt may also complete what it was given, so
// what it gives back once the domain is defined is to be sealed. Sealing what is sealed already changes nothing.
func Seal(text string) (string, error) {
	root, err := parseDomain(text)
	if err != nil {
		return "", err
	}
	n := own(root)
	if n == nil {
		return "", ErrNotAttached
	}
	r, err := recordOf(n)
	if err != nil {
		return "", err
	}
	changed := false
	for k, now := range match(root, r.Pieces) {
		if p := &r.Pieces[k]; now != nil && p.Sum != p.sum(now) {
			p.Sum, changed = p.sum(now), true
		}
	}
	if !changed {
		return text, nil
	}
	lines, err := element(r, portsOf(n))
	if err != nil {
		return "", err
	}
	e := &editor{text: text}
	e.replace(n.start, n.end, strings.Join(lines, "\n"+e.indent(n)))
	return e.apply(), nil
}
