package main

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"
)

// misspellings has one "wrong right" a line.
//
//go:embed misspellings.txt
var misspellings string

var word = regexp.MustCompile(`[A-Za-z]+`)

// misspelled finds the words of the list, in whatever case, in comments, texts and names.
func misspelled(t tree) (findings []string) {
	right := map[string]string{}
	for line := range strings.Lines(misspellings) {
		if wrong, correct, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			right[wrong] = correct
		}
	}
	for _, f := range t {
		for n, line := range strings.Split(string(f.text), "\n") {
			for _, w := range word.FindAllString(line, -1) {
				if correct := right[strings.ToLower(w)]; correct != "" {
					findings = append(findings, fmt.Sprintf("%s:%d: %q is spelled %q", f.path, n+1, w, correct))
				}
			}
		}
	}
	return findings
}
