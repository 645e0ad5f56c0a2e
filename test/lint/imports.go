package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// use is one import declaration.
type use struct {
	file string
	line int
	path string
}

// imports lists those of a Go file. One that does not parse has none: the compiler tells.
func imports(f file) (list []use) {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, f.path, f.text, parser.ImportsOnly)
	if err != nil {
		return nil
	}
	for _, i := range parsed.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			list = append(list, use{f.path, set.Position(i.Pos()).Line, p})
		}
	}
	return list
}

// covers tells whether a pattern of the tables means that package.
func covers(pattern, pkg string) bool {
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(below, pkg)
	}
	return pattern == pkg
}

// within tells whether a package is root or below it.
func within(root, pkg string) bool { return pkg == root || strings.HasPrefix(pkg, root+"/") }

func anyCovers(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if covers(p, pkg) {
			return true
		}
	}
	return false
}

// roomOf finds a package's row: the one with the longest path.
func roomOf(pkg string) (best room, found bool) {
	for _, r := range plan {
		if covers(r.path, pkg) && (!found || len(r.path) > len(best.path)) {
			best, found = r, true
		}
	}
	return best, found
}

var moduleLine = regexp.MustCompile(`(?m)^module (\S+)$`)

// wrongImports holds all but tests against the plan.
func wrongImports(t tree) (findings []string) {
	m := moduleLine.FindSubmatch(t.find("go.mod"))
	if m == nil {
		return []string{"go.mod: names no module"}
	}
	module := string(m[1])
	unknown := map[string]bool{}
	for _, f := range t.sources() {
		pkg := path.Dir(f.path)
		if isTest(f.path) {
			continue
		}
		r, known := roomOf(pkg)
		if !known && !unknown[pkg] {
			unknown[pkg] = true
			findings = append(findings, pkg+": has no row in test/lint/rooms.go: add one that says what it may import")
		}
		for _, u := range imports(f) {
			if why := r.forbids(module, pkg, u.path); known && why != "" {
				findings = append(findings, fmt.Sprintf("%s:%d: %s: see test/lint/rooms.go", u.file, u.line, why))
			}
		}
	}
	return findings
}

// forbids says why a package of that room may not import another one, or "".
func (r room) forbids(module, pkg, imported string) string {
	if own, ok := strings.CutPrefix(imported, module+"/"); ok {
		if anyCovers(r.may, own) || strings.HasSuffix(r.path, "/...") && covers(r.path, own) {
			return ""
		}
		return fmt.Sprintf("%s may not import %s", pkg, own)
	}
	for _, n := range r.never {
		if within(n, imported) {
			return fmt.Sprintf("%s must do without %s", pkg, imported)
		}
	}
	longest := ""
	for m := range outside {
		if within(m, imported) && len(m) > len(longest) {
			longest = m
		}
	}
	if longest != "" && !anyCovers(outside[longest], pkg) {
		return fmt.Sprintf("%s may not import %s", pkg, imported)
	}
	return ""
}
