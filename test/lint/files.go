package main

import (
	"bytes"
	"fmt"
	"go/format"
	"path"
	"strings"
)

// unformatted finds Go files that gofmt would change.
func unformatted(t tree) (findings []string) {
	for _, f := range t.sources() {
		want, err := format.Source(f.text)
		if err != nil {
			findings = append(findings, fmt.Sprintf("%s: %v", f.path, err))
		} else if !bytes.Equal(want, f.text) {
			findings = append(findings, f.path+": is not formatted: run gofmt -w on it")
		}
	}
	return findings
}

// misplacedUnsafe finds unsafe where a reader does not expect it.
func misplacedUnsafe(t tree) (findings []string) {
	for _, f := range t.sources() {
		if strings.HasSuffix(strings.TrimSuffix(f.path, "_test.go"), "_unsafe") || strings.HasSuffix(f.path, "_unsafe.go") {
			continue
		}
		for _, u := range imports(f) {
			if u.path == "unsafe" {
				findings = append(findings, fmt.Sprintf("%s:%d: unsafe belongs into a file *_unsafe.go", f.path, u.line))
			}
		}
	}
	return findings
}

// maxLines is how long a Go file or script may be.
const maxLines = 450

// longFiles finds those that should be split.
func longFiles(t tree) (findings []string) {
	for _, f := range t {
		if e := path.Ext(f.path); e != ".go" && e != ".sh" {
			continue
		}
		if n := bytes.Count(f.text, []byte("\n")); n > maxLines {
			findings = append(findings, fmt.Sprintf("%s: has %d lines, more than %d: split it by what its parts are about", f.path, n, maxLines))
		}
	}
	return findings
}
