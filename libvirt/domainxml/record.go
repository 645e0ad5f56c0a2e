package domainxml

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// record is what Attach keeps: what it changed, piece by piece, and nothing else of the description. The rest may hold passwords, which must
// not be copied into the metadata, where everybody reads them who may look at the domain.
type record struct {
	Metadata *string `json:"metadata,omitempty"` // <metadata> as it was, if it had no elements
	OneLine  bool    `json:"oneline,omitempty"`  // no white space stood before </metadata>
	Pieces   []piece `json:"pieces"`
}

// Kinds of pieces.
const (
	pieceInterface = "interface" // an <interface>
	pieceBacking   = "backing"   // <memoryBacking>
	pieceCell      = "cell"      // memAccess of a NUMA cell
	pieceDevice    = "device"    // access of a memory device
)

// piece is an element that Attach changed, or an attribute of one.
type piece struct {
	Kind   string `json:"kind"`
	Index  int    `json:"index"` // among its kind, as it was
	ID     string `json:"id,omitempty"`
	MAC    string `json:"mac,omitempty"`
	Socket string `json:"socket,omitempty"`
	Was    string `json:"was"` // the element, or the attribute's value, as it was written; "" for an element that was not there
	Sum    string `json:"sum"` // of what was made of it; see sum
}

// attribute is what belongs to us of an element that is not ours as a whole; "" where it is.
func (p piece) attribute() string {
	switch p.Kind {
	case pieceCell:
		return "memAccess"
	case pieceDevice:
		return "access"
	}
	return ""
}

func (p piece) String() string {
	switch p.Kind {
	case pieceInterface:
		if p.MAC != "" {
			return "interface " + p.MAC
		}
		return fmt.Sprintf("interface %d", p.Index)
	case pieceBacking:
		return "memory settings"
	case pieceCell:
		return fmt.Sprintf("memory of NUMA cell %d", p.Index)
	}
	return fmt.Sprintf("memory device %d", p.Index)
}

// parts are the elements of a kind.
func parts(root *node, kind string) []*node {
	switch kind {
	case pieceInterface:
		return root.find("devices").all("interface")
	case pieceBacking:
		return root.all("memoryBacking")
	case pieceCell:
		return root.find("cpu", "numa").all("cell")
	}
	return root.find("devices").all("memory")
}

// differences are the pieces that differ between a description and what Attach made of it. Attach adds and removes no part but
// <memoryBacking>, so they stand at the same places.
func differences(before, after string) ([]piece, error) {
	old, err := parseDomain(before)
	if err != nil {
		return nil, err
	}
	now, err := parseDomain(after)
	if err != nil {
		return nil, err
	}
	var list []piece
	for _, kind := range []string{pieceInterface, pieceBacking, pieceCell, pieceDevice} {
		was := parts(old, kind)
		for i, n := range parts(now, kind) {
			p := piece{Kind: kind, Index: i, ID: n.attr("id")}
			is := after[n.start:n.end]
			if i < len(was) {
				p.Was = before[was[i].start:was[i].end]
			}
			if a := p.attribute(); a != "" {
				p.Was, is = rawAttr(before, was[i], a), rawAttr(after, n, a)
			}
			if p.Was == is {
				continue
			}
			if kind == pieceInterface {
				is := interfaceOf(i, n)
				p.MAC, p.Socket = is.MAC, is.Socket
			}
			p.Sum = p.sum(n)
			list = append(list, p)
		}
	}
	return list, nil
}

// rawAttr is an attribute's value as it is written.
func rawAttr(text string, n *node, name string) string {
	tag := text[n.start:n.open]
	start, end, _ := findAttr(tag, name)
	return tag[start:end]
}

// match finds the element that each piece stands for now; nil where it is gone. Others may have come or gone before it: an interface is
// known by its socket, else by its MAC address, a cell by its number.
func match(root *node, pieces []piece) []*node {
	found := make([]*node, len(pieces))
	taken := map[*node]bool{}
	for k, p := range pieces {
		best := 0
		for i, n := range parts(root, p.Kind) {
			if score := p.likeness(i, n); score > best && !taken[n] {
				best, found[k] = score, n
			}
		}
		taken[found[k]] = true
	}
	return found
}

// likeness is 0 if the element cannot be the piece's.
func (p piece) likeness(i int, n *node) int {
	score := 0
	switch p.Kind {
	case pieceInterface:
		is := interfaceOf(i, n)
		if p.Socket != "" && is.Socket == p.Socket {
			score += 4
		}
		if p.MAC != "" && is.MAC == p.MAC || p.MAC == "" && i == p.Index {
			score += 2
		}
	case pieceCell:
		if n.attr("id") == p.ID {
			score += 2
		}
	default:
		return btoi(i == p.Index)
	}
	if score > 0 {
		score += btoi(i == p.Index)
	}
	return score
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// sum is of what matters of a piece as it is now: what the way in which libvirt writes it, and what libvirt adds by itself, do not change.
func (p piece) sum(n *node) string {
	if a := p.attribute(); a != "" {
		return sum(n.attr(a))
	}
	var without []string
	if p.Kind == pieceInterface {
		without = []string{"target"}
		if was, err := parse(p.Was); err == nil {
			for _, name := range []string{"mac", "address", "alias"} {
				if was.find(name) == nil {
					without = append(without, name)
				}
			}
		}
	}
	return sum(canonical(n, without...))
}

// pack writes the record as text for the metadata.
func (r record) pack() (string, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(data)
	}
	if err == nil {
		err = z.Close()
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), err
}

// unpack reads it, and checks that nothing but whole elements of the right kind would come out of it into a description.
func unpack(packed string) (r record, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("what the domain's metadata keeps of the time before attach is damaged: %w", err)
		}
	}()
	data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(packed), ""))
	if err != nil {
		return r, err
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return r, err
	}
	text, err := io.ReadAll(io.LimitReader(z, maxText+1))
	if err == nil && len(text) > maxText {
		err = fmt.Errorf("more than %d bytes", maxText)
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, err
	}
	if r.Metadata != nil {
		if err := isElement(*r.Metadata, "metadata"); err != nil {
			return r, err
		}
	}
	for _, p := range r.Pieces {
		if err := p.check(); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (p piece) check() error {
	switch p.Kind {
	case pieceInterface:
		return isElement(p.Was, "interface")
	case pieceBacking:
		if p.Was == "" {
			return nil
		}
		return isElement(p.Was, "memoryBacking")
	case pieceCell, pieceDevice:
		if strings.ContainsAny(p.Was, `<>'"`) {
			return fmt.Errorf("attribute value %q", p.Was)
		}
		return isElement("<a b='"+p.Was+"'/>", "a")
	}
	return fmt.Errorf("piece of unknown kind %q; a newer vhostctl made it", p.Kind)
}

// isElement checks that a text is one element and nothing else.
func isElement(text, name string) error {
	n, err := parse(text)
	if err != nil {
		return err
	}
	if n.name != name || n.start != 0 || n.end != len(text) {
		return fmt.Errorf("%q is not just a <%s>", text, name)
	}
	return nil
}
