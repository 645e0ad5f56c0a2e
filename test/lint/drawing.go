package main

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// drawn is the document with the drawing, and the line before its block.
const (
	drawn        = "ARCHITECTURE.md"
	drawingBegin = "<!-- imports of switchd -->\n\n```text\n"
)

// wrongDrawing holds the drawing of switchd's imports against them: a line a package, "forward: bridge ether ...".
func wrongDrawing(t tree) (findings []string) {
	_, rest, found := strings.Cut(string(t.find(drawn)), drawingBegin)
	block, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		return []string{drawn + ": has no drawing of switchd's imports"}
	}
	have, want := strings.Split(strings.TrimSpace(block), "\n"), drawing(t)
	for _, line := range have {
		if !slices.Contains(want, line) {
			findings = append(findings, fmt.Sprintf("%s: draws %q, which is not so", drawn, line))
		}
	}
	for _, line := range want {
		if !slices.Contains(have, line) {
			findings = append(findings, fmt.Sprintf("%s: does not draw %q", drawn, line))
		}
	}
	return findings
}

// drawing is what it should be.
func drawing(t tree) (lines []string) {
	m := moduleLine.FindSubmatch(t.find("go.mod"))
	if m == nil {
		return nil
	}
	root := string(m[1]) + "/switchd/"
	packages := map[string]map[string]bool{}
	for _, f := range t.sources() {
		pkg, below := strings.CutPrefix(path.Dir(f.path), "switchd/")
		if !below || isTest(f.path) {
			continue
		}
		for _, u := range imports(f) {
			if own, ok := strings.CutPrefix(u.path, root); ok {
				if packages[pkg] == nil {
					packages[pkg] = map[string]bool{}
				}
				packages[pkg][own] = true
			}
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(packages)) {
		lines = append(lines, pkg+": "+strings.Join(slices.Sorted(maps.Keys(packages[pkg])), " "))
	}
	return lines
}
