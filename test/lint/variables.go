package main

import (
	"path"
	"regexp"
	"slices"
)

// Where a variable of the environment is read: by its full name as a string in Go, or expanded in a script.
var (
	readByGo    = regexp.MustCompile(`"(VHOSTKIT_[A-Z0-9_]+)"`)
	readByShell = regexp.MustCompile(`\$\{(VHOSTKIT_[A-Z0-9_]+)`)
	named       = regexp.MustCompile(`VHOSTKIT_[A-Z0-9_]+`)
)

const contributing = "CONTRIBUTING.md"

// undocumentedVariables compares what the sources read with what CONTRIBUTING.md names, both ways.
func undocumentedVariables(t tree) (findings []string) {
	documented := map[string]bool{}
	for _, name := range named.FindAllString(string(t.find(contributing)), -1) {
		documented[name] = true
	}
	read := map[string]string{}
	for _, f := range t {
		pattern := readByGo
		switch path.Ext(f.path) {
		case ".go":
		case ".sh":
			pattern = readByShell
		default:
			continue
		}
		for _, m := range pattern.FindAllSubmatch(f.text, -1) {
			if name := string(m[1]); read[name] == "" {
				read[name] = f.path
			}
		}
	}
	for name, where := range read {
		if !documented[name] {
			findings = append(findings, where+": reads "+name+", which "+contributing+" does not name")
		}
	}
	for name := range documented {
		if read[name] == "" {
			findings = append(findings, contributing+": names "+name+", which nothing reads")
		}
	}
	slices.Sort(findings)
	return findings
}
