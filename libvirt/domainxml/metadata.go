package domainxml

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// What Attach keeps in the domain's <metadata>: the original, what it gave, and what the description was when it was written, so that a later
// change by hand is noticed.
const (
	prefix    = "vhostkit"
	namespace = "urn:vhostkit:domain:1"
	// maxOriginal bounds what an original may unpack to, in bytes.
	maxOriginal = 16 << 20
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

// without is the description as it would be without our element.
func without(text string) (string, error) {
	root, err := parseDomain(text)
	if err != nil {
		return "", err
	}
	n := own(root)
	if n == nil {
		return text, nil
	}
	e := &editor{text: text}
	meta := n.parent
	if len(meta.children) == 1 && strings.TrimSpace(meta.text) == "" {
		n = meta
	}
	e.remove(n)
	return e.apply(), nil
}

// marks are the sums by which a change by hand is noticed: of the whole description, and of those parts that Attach changes.
func marks(text string) (whole, owned string, err error) {
	if text, err = without(text); err != nil {
		return "", "", err
	}
	root, err := parseDomain(text)
	if err != nil {
		return "", "", err
	}
	h := sha256.New()
	for _, n := range ownedParts(root) {
		fmt.Fprintf(h, "%s\n", squeeze(text[n.start:n.end]))
	}
	return sum(text), hex.EncodeToString(h.Sum(nil)), nil
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// ownedParts are the elements that Attach may have changed.
func ownedParts(root *node) (list []*node) {
	list = append(list, root.all("memoryBacking")...)
	list = append(list, root.find("cpu").all("numa")...)
	list = append(list, root.find("devices").all("interface")...)
	return append(list, root.find("devices").all("memory")...)
}

// squeeze makes white space between elements not count.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// remember puts our element into a rewritten description: what is needed to get back to the original, and the ports.
func remember(original, rewritten string, ports []Port) (string, error) {
	root, err := parseDomain(rewritten)
	if err != nil {
		return "", fmt.Errorf("the rewritten description is not well formed, which is an error of this program: %w", err)
	}
	e := &editor{text: rewritten}
	if n := own(root); n != nil {
		for _, p := range portsOf(n) {
			if !slices.ContainsFunc(ports, func(q Port) bool { return q.Socket == p.Socket }) {
				ports = append(ports, p)
			}
		}
		e.replace(n.start, n.end, strings.Join(element(ports), "\n"+e.indent(n)))
	} else if meta := root.find("metadata"); meta != nil {
		e.add(meta, element(ports)...)
	} else {
		lines := element(ports)
		for i := range lines {
			lines[i] = "  " + lines[i]
		}
		e.after(metadataAnchor(root), slices.Concat([]string{"<metadata>"}, lines, []string{"</metadata>"})...)
	}
	return Seal(e.apply(), original)
}

func portsOf(n *node) (ports []Port) {
	for _, p := range n.all(prefix + ":port") {
		ports = append(ports, Port{p.attr("name"), p.attr("mac"), p.attr("socket")})
	}
	return ports
}

func element(ports []Port) []string {
	lines := []string{fmt.Sprintf("<%s:domain xmlns:%s='%s' whole='' owned='' back='' parts=''>", prefix, prefix, namespace)}
	for _, p := range ports {
		lines = append(lines, fmt.Sprintf("  <%s:port name='%s' mac='%s' socket='%s'/>", prefix, escapeAttr(p.Name, '\''), escapeAttr(p.MAC, '\''),
			escapeAttr(p.Socket, '\'')))
	}
	return append(lines, fmt.Sprintf("</%s:domain>", prefix))
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

// Seal notes in our element what the description is now, and the way from there back to the original. libvirt writes a description anew when
// it is defined, so what was sealed before has to be sealed again as libvirt gives it back. Sealing what is sealed already changes nothing.
//
// Not the original itself is kept but only what differs, because anybody may read the metadata and the rest may hold passwords.
func Seal(text, original string) (string, error) {
	whole, owned, err := marks(text)
	if err != nil {
		return "", err
	}
	now, err := without(text)
	if err != nil {
		return "", err
	}
	root, err := parseDomain(text)
	if err != nil {
		return "", err
	}
	n := own(root)
	if n == nil {
		return "", ErrNotAttached
	}
	parts, err := partsOf(original)
	if err != nil {
		return "", err
	}
	e := &editor{text: text}
	for _, a := range []struct{ name, value string }{
		{"whole", whole}, {"owned", owned}, {"back", pack(difference(now, original).encode())}, {"parts", pack(parts)},
	} {
		if n.attr(a.name) != a.value {
			e.setAttr(n, a.name, a.value)
		}
	}
	return e.apply(), nil
}

// partsOf is a description that has nothing but the parts that Attach changes.
func partsOf(text string) (string, error) {
	root, err := parseDomain(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	put := func(list []*node) {
		for _, n := range list {
			b.WriteString(text[n.start:n.end] + "\n")
		}
	}
	b.WriteString("<domain><name/>")
	put(root.all("memoryBacking"))
	b.WriteString("<cpu>")
	put(root.find("cpu").all("numa"))
	b.WriteString("</cpu><devices>")
	put(root.find("devices").all("interface"))
	put(root.find("devices").all("memory"))
	b.WriteString("</devices></domain>")
	return b.String(), nil
}

func pack(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		panic(err) // a bytes.Buffer takes everything
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

func unpack(packed string) (string, error) {
	damaged := func(err error) error {
		return fmt.Errorf("what attach kept in the domain's metadata is damaged: %w", err)
	}
	data, err := base64.StdEncoding.DecodeString(packed)
	if err != nil {
		return "", damaged(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return "", damaged(err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxOriginal+1))
	if err != nil {
		return "", damaged(err)
	}
	if len(text) > maxOriginal {
		return "", damaged(errors.New("too long"))
	}
	return string(text), nil
}
