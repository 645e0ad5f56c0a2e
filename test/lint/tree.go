package main

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// file is one source or document, by its path from the module's root.
type file struct {
	path string
	text []byte
}

// tree is all of them, in the order of their paths.
type tree []file

// skipped are directories with what is made, fetched or planted.
var skipped = []string{"bin", "bench/results", "test/lint/testdata"}

// load reads every text that a person writes here.
func load(root fs.FS) (t tree, err error) {
	err = fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && p != "." && d.Name() != ".ci"
		switch {
		case d.IsDir() && (hidden || slices.Contains(skipped, p)):
			return fs.SkipDir
		case d.IsDir() || hidden || !d.Type().IsRegular() || !written(p):
			return nil
		}
		text, err := fs.ReadFile(root, p)
		t = append(t, file{p, text})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the sources: %w", err)
	}
	return t, nil
}

// written tells by its name whether a file is a text by hand. Corpora of fuzz targets and golden files are not.
func written(p string) bool {
	switch path.Ext(p) {
	case ".go", ".sh", ".c", ".h", ".md", ".toml", ".mod", ".txtar", ".service", ".socket", ".conf", ".yaml":
		return !strings.Contains(p, "/testdata/fuzz/")
	}
	return path.Base(p) == "Makefile" || p == ".ci/run"
}

// find gives the text of one file, or nil.
func (t tree) find(p string) []byte {
	for _, f := range t {
		if f.path == p {
			return f.text
		}
	}
	return nil
}

// sources are the Go files.
func (t tree) sources() (list tree) {
	for _, f := range t {
		if path.Ext(f.path) == ".go" {
			list = append(list, f)
		}
	}
	return list
}

func isTest(p string) bool { return strings.HasSuffix(p, "_test.go") }
