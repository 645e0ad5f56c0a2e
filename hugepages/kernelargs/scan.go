// Package kernelargs reads and changes what a kernel command line says about hugepages: default_hugepagesz=, and pairs of hugepagesz= and
// the hugepages= that follows. It knows text and positions only; where the text stands, and how it is quoted there, is the caller's affair.
//
// Source: Documentation/admin-guide/kernel-parameters.txt and mm/hugetlb.c of Linux. Of a size that is given twice the first counts.
package kernelargs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vhostkit/hugepages/bytesize"
)

// Pool is a number of pages of one size.
type Pool struct {
	Size  bytesize.Size  `json:"size"`
	Count uint64         `json:"count"`
	Nodes map[int]uint64 `json:"nodes,omitempty"` // pages by NUMA node; nil: the kernel spreads Count evenly
}

// Spec is the value of hugepages=.
func (p Pool) Spec() string {
	if p.Nodes == nil {
		return strconv.FormatUint(p.Count, 10)
	}
	var parts []string
	for _, node := range sortedNodes(p.Nodes) {
		parts = append(parts, fmt.Sprintf("%d:%d", node, p.Nodes[node]))
	}
	return strings.Join(parts, ",")
}

func sortedNodes(m map[int]uint64) []int {
	var list []int
	for n := range m {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// Settings is what a command line says.
type Settings struct {
	Default bytesize.Size // 0: nothing is said
	Pools   []Pool        // in the order of the line
}

// Pool finds the pool of a size; its Count is 0 if there is none.
func (s Settings) Pool(size bytesize.Size) Pool {
	for _, p := range s.Pools {
		if p.Size == size {
			return p
		}
	}
	return Pool{Size: size}
}

// Read tells what a line says. base is the machine's default page size, to which hugepages= applies before any size was given.
func Read(line string, base bytesize.Size) Settings {
	s := scan(line, base)
	settings := Settings{Default: s.defaultSize}
	for _, p := range s.pools {
		if p.count >= 0 {
			settings.Pools = append(settings.Pools, p.Pool)
		}
	}
	return settings
}

// token is a parameter at line[start:end].
type token struct {
	start, end int
	key, value string
}

// tokens splits a line as the kernel does: at white space outside double quotes. Only parameters about hugepages are kept.
func tokens(line string) []token {
	var list []token
	for i := 0; i < len(line); {
		if isSpace(line[i]) {
			i++
			continue
		}
		start, quoted := i, false
		for i < len(line) && (quoted || !isSpace(line[i])) {
			if line[i] == '"' {
				quoted = !quoted
			}
			i++
		}
		key, value, ok := strings.Cut(line[start:i], "=")
		if ok && (key == "hugepages" || key == "hugepagesz" || key == "default_hugepagesz") {
			list = append(list, token{start, i, key, value})
		}
		if line[start:i] == "--" {
			return list // the rest is for the first process
		}
	}
	return list
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f'
}

// poolTokens is a pool and the tokens that it came from, as indices; -1 is none.
type poolTokens struct {
	Pool
	size, count int
}

type scanned struct {
	tokens       []token
	defaultSize  bytesize.Size
	defaultToken int // -1: none
	pools        []poolTokens
}

// What a hugepages= applies to, where it is not a pool's index.
const (
	implicit = -1 // the default size
	ignored  = -2 // nothing
)

// scan follows the order in which the kernel reads the parameters.
func scan(line string, base bytesize.Size) scanned {
	s := scanned{tokens: tokens(line), defaultToken: -1}
	current := implicit
	for i, t := range s.tokens {
		size, err := bytesize.Parse(t.value)
		switch {
		case t.key == "hugepages":
			current = s.count(i, t.value, current, base)
		case err != nil:
			current = ignored
		case t.key == "hugepagesz":
			if current = s.open(size, i); s.pools[current].count >= 0 || s.pools[current].size != i {
				current = ignored // given before
			}
		case s.defaultToken >= 0:
			current = ignored
		default:
			s.defaultToken, s.defaultSize = i, size
			current = s.open(size, -1)
		}
	}
	// What was said before any size is about the default size.
	for i := range s.pools {
		if p := &s.pools[i]; p.Size == 0 {
			if p.Size = base; s.defaultSize != 0 {
				p.Size = s.defaultSize
			}
		}
	}
	return s
}

// count takes a hugepages= and returns what the next one would apply to.
func (s *scanned) count(i int, value string, current int, base bytesize.Size) int {
	pool, err := parseSpec(value)
	if current == ignored || err != nil {
		return ignored
	}
	if current == implicit {
		if len(s.pools) > 0 {
			return ignored
		}
		s.pools = append(s.pools, poolTokens{Pool: pool, size: -1, count: i})
		return ignored
	}
	p := &s.pools[current]
	if p.count < 0 {
		p.Count, p.Nodes, p.count = pool.Count, pool.Nodes, i
	}
	return ignored
}

// open finds or makes the pool of a size that a token names.
func (s *scanned) open(size bytesize.Size, i int) int {
	for k := range s.pools {
		if p := &s.pools[k]; p.Size == size || p.Size == 0 && s.defaultSize == size {
			if p.size < 0 && p.count < 0 {
				p.size = i
			}
			return k
		}
	}
	s.pools = append(s.pools, poolTokens{Pool: Pool{Size: size}, size: i, count: -1})
	return len(s.pools) - 1
}

// parseSpec reads 512, or by node 0:256,1:256.
func parseSpec(value string) (Pool, error) {
	if n, err := strconv.ParseUint(value, 10, 40); err == nil {
		return Pool{Count: n}, nil
	}
	p := Pool{Nodes: map[int]uint64{}}
	for _, part := range strings.Split(value, ",") {
		node, count, _ := strings.Cut(part, ":")
		n, err := strconv.ParseUint(node, 10, 16)
		if err != nil {
			return Pool{}, fmt.Errorf("hugepages=%s: node %q", value, node)
		}
		c, err := strconv.ParseUint(count, 10, 40)
		if err != nil {
			return Pool{}, fmt.Errorf("hugepages=%s: count %q", value, count)
		}
		p.Count += c - p.Nodes[int(n)]
		p.Nodes[int(n)] = c
	}
	return p, nil
}

// Parameters lists what a line says about hugepages, in order, as it stands there.
func Parameters(line string) []string {
	var list []string
	for _, t := range tokens(line) {
		list = append(list, t.key+"="+t.value)
	}
	return list
}

// String is the parameters that say it.
func (w Wanted) String() string {
	change, err := Plan("", w)
	if err != nil {
		return ""
	}
	return change.Add
}
