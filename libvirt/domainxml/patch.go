package domainxml

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// hunk is a stretch of a text and what comes in its place. Offsets are in bytes.
type hunk struct {
	At   int    `json:"at"`
	Len  int    `json:"len"`
	Text string `json:"text"`
}

// patch leads from one text to another. Its hunks are in order and do not overlap.
type patch []hunk

// maxTable bounds the work of finding the difference: lines of one text times lines of the other.
const maxTable = 4 << 20

// difference finds the lines that lead from one text to another: a longest common subsequence of lines, or for very different and long texts
// one hunk from the first difference to the last.
func difference(from, to string) patch {
	a, b := strings.SplitAfter(from, "\n"), strings.SplitAfter(to, "\n")
	at := 0
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		at += len(a[0])
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a)*len(b) > maxTable {
		gone := strings.Join(a, "")
		return patch{{at, len(gone), strings.Join(b, "")}}
	}
	common := make([][]int32, len(a)+1) // length of the longest common subsequence of a[i:] and b[j:]
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var p patch
	open := hunk{At: -1}
	edit := func() *hunk {
		if open.At < 0 {
			open = hunk{At: at}
		}
		return &open
	}
	flush := func() {
		if open.At >= 0 {
			p = append(p, open)
			open = hunk{At: -1}
		}
	}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			flush()
			at += len(a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			edit().Len += len(a[i])
			at += len(a[i])
			i++
		default:
			edit().Text += b[j]
			j++
		}
	}
	flush()
	return p
}

func (p patch) encode() string {
	data, err := json.Marshal(p)
	if err != nil {
		panic(err) // numbers and strings can be encoded
	}
	return string(data)
}

func decodePatch(text string) (p patch, err error) {
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, fmt.Errorf("what attach kept in the domain's metadata is damaged: %w", err)
	}
	return p, nil
}

func (p patch) apply(text string) (string, error) {
	var b strings.Builder
	at := 0
	for _, h := range p {
		if h.At < at || h.Len < 0 || h.At > len(text) || h.Len > len(text)-h.At {
			return "", errors.New("what attach kept in the domain's metadata does not fit the description")
		}
		b.WriteString(text[at:h.At] + h.Text)
		at = h.At + h.Len
	}
	b.WriteString(text[at:])
	return b.String(), nil
}
