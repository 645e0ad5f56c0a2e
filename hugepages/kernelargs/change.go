package kernelargs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"vhostkit/hugepages/bytesize"
)

// ErrConflict says that what is asked contradicts the line in a way that only Exact resolves.
var ErrConflict = errors.New("the command line says something else already")

// Wanted is what a line shall say.
type Wanted struct {
	Default bytesize.Size // 0: leave it
	Pools   []Pool
	// Exact allows to lower counts that are there.
	Exact bool
	// Base is the machine's default page size without default_hugepagesz=.
	Base bytesize.Size
}

// Edit replaces line[Start:End].
type Edit struct {
	Start, End int
	Text       string
}

// Change is what makes a line say what is wanted.
type Change struct {
	Edits []Edit // in order, not overlapping
	Add   string // parameters to add, with spaces between them and none around
}

// Empty tells that the line says it already.
func (c Change) Empty() bool { return len(c.Edits) == 0 && c.Add == "" }

// Apply is the whole line with the change made, the addition at its end.
func (c Change) Apply(line string) string {
	var b strings.Builder
	at := 0
	for _, e := range c.Edits {
		b.WriteString(line[at:e.Start])
		b.WriteString(e.Text)
		at = e.End
	}
	b.WriteString(line[at:])
	out := b.String()
	if c.Add == "" {
		return out
	}
	body := strings.TrimRight(out, " \t\r\n")
	if body != "" {
		body += " "
	}
	return body + c.Add + out[len(strings.TrimRight(out, " \t\r\n")):]
}

// Plan works out the change of a line. The addition may be put anywhere between two parameters of the line that does not part a
// hugepagesz= from its hugepages=.
func Plan(line string, w Wanted) (Change, error) {
	s := scan(line, w.Base)
	merged, err := merge(s, w)
	if err != nil {
		return Change{}, err
	}
	defaultSize := w.Default
	if defaultSize == s.defaultSize || s.defaultSize == 0 && defaultSize == w.Base {
		defaultSize = 0
	}
	if defaultSize == 0 && len(merged) == 0 {
		return Change{}, nil
	}
	return s.change(merged, defaultSize), nil
}

// merge lists the pools whose counts change, with their new counts.
func merge(s scanned, w Wanted) (map[bytesize.Size]Pool, error) {
	changed := map[bytesize.Size]Pool{}
	for _, want := range w.Pools {
		is := Pool{Size: want.Size}
		for _, p := range s.pools {
			if p.Size == want.Size && p.count >= 0 {
				is = p.Pool
			}
		}
		to := want
		if !w.Exact {
			var err error
			if to, err = raise(is, want); err != nil {
				return nil, err
			}
		}
		if to.Count != is.Count || to.Nodes != nil && is.Nodes == nil || !maps.Equal(to.Nodes, is.Nodes) {
			changed[want.Size] = to
		}
	}
	return changed, nil
}

// raise is the least that holds both, without lowering anything.
func raise(is, want Pool) (Pool, error) {
	switch {
	case want.Nodes == nil && is.Nodes == nil:
		return Pool{Size: want.Size, Count: max(is.Count, want.Count)}, nil
	case want.Nodes != nil && is.Nodes == nil:
		if is.Count > want.Count {
			return Pool{}, fmt.Errorf("%w: hugepages=%s of size %s, over all nodes, is more than the %d pages asked for by node; --exact replaces it",
				ErrConflict, is.Spec(), is.Size, want.Count)
		}
		return want, nil
	case want.Nodes == nil:
		to := Pool{Size: want.Size, Count: is.Count, Nodes: maps.Clone(is.Nodes)}
		nodes := sortedNodes(to.Nodes)
		for i := 0; to.Count < want.Count; i++ {
			share := (want.Count - to.Count + uint64(len(nodes)-i%len(nodes)) - 1) / uint64(len(nodes)-i%len(nodes))
			to.Nodes[nodes[i%len(nodes)]] += share
			to.Count += share
		}
		return to, nil
	}
	to := Pool{Size: want.Size, Nodes: maps.Clone(is.Nodes)}
	for node, n := range want.Nodes {
		to.Nodes[node] = max(to.Nodes[node], n)
	}
	for _, n := range to.Nodes {
		to.Count += n
	}
	return to, nil
}

// change writes the edits. Every hugepages= that hangs on the default size is given its size, so that nothing that is added elsewhere
// changes what it applies to.
func (s scanned) change(counts map[bytesize.Size]Pool, defaultSize bytesize.Size) Change {
	c := Change{}
	replace := func(i int, text string) {
		if t := s.tokens[i]; text != t.key+"="+t.value {
			c.Edits = append(c.Edits, Edit{t.start, t.end, text})
		}
	}
	var add []string
	if defaultSize != 0 {
		if text := "default_hugepagesz=" + defaultSize.String(); s.defaultToken >= 0 {
			replace(s.defaultToken, text)
		} else {
			add = append(add, text)
		}
	}
	for _, p := range s.pools {
		to, changes := counts[p.Size]
		if !changes {
			to = p.Pool
		}
		delete(counts, p.Size)
		switch pair := "hugepagesz=" + p.Size.String() + " hugepages=" + to.Spec(); {
		case p.count >= 0 && p.size >= 0:
			if changes {
				replace(p.count, "hugepages="+to.Spec())
			}
		case p.count >= 0:
			replace(p.count, pair)
		case changes && p.size >= 0:
			replace(p.size, pair)
		case changes:
			add = append(add, pair)
		}
	}
	for _, size := range slices.Backward(slices.Sorted(maps.Keys(counts))) {
		add = append(add, "hugepagesz="+size.String()+" hugepages="+counts[size].Spec())
	}
	sort.Slice(c.Edits, func(i, k int) bool { return c.Edits[i].Start < c.Edits[k].Start })
	c.Add = strings.Join(add, " ")
	return c
}
