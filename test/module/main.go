// Command module gives the project another module path: that of whoever hosts it, so that others can import its packages.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"vhostkit/internal/atomicfile"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./test/module HOST/PATH\nexample: go run ./test/module git.example.com/nfv/vhostkit")
		os.Exit(2)
	}
	changed, err := rename(".", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "module:", err)
		os.Exit(1)
	}
	fmt.Printf("%d files changed; now: gofmt -w ., go build ./...\n", changed)
}

var (
	moduleLine = regexp.MustCompile(`(?m)^module (\S+)$`)
	importable = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+(/[A-Za-z0-9._~-]+)+$`)
)

// rename changes the path in go.mod and wherever a package is named, in the files below dir that git knows. It returns how many it changed.
func rename(dir, path string) (changed int, err error) {
	if !importable.MatchString(path) {
		return 0, fmt.Errorf("%q is no path that others can import: it needs a host with a dot, and a path behind it", path)
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return 0, err
	}
	m := moduleLine.FindSubmatch(mod)
	if m == nil {
		return 0, errors.New("go.mod has no module line")
	}
	names, err := packages(dir, string(m[1]))
	if err != nil {
		return 0, err
	}
	list, err := files(dir)
	for _, name := range list {
		text, readErr := os.ReadFile(name)
		if readErr != nil {
			return changed, readErr
		}
		next := names.ReplaceAll(text, []byte("${1}"+path+"/${2}"))
		if filepath.Base(name) == "go.mod" {
			next = moduleLine.ReplaceAll(next, []byte("module "+path))
		}
		if bytes.Equal(next, text) {
			continue
		}
		changed++
		if err = errors.Join(err, write(name, next)); err != nil {
			return changed, err
		}
	}
	return changed, err
}

// packages matches the path where it begins the name of a package: not in file names such as /etc/PATH/...
func packages(dir, old string) (*regexp.Regexp, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var rooms []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			rooms = append(rooms, regexp.QuoteMeta(e.Name()))
		}
	}
	return regexp.Compile(`(?m)(^|[^A-Za-z0-9_/.-])` + regexp.QuoteMeta(old) + `/(` + strings.Join(rooms, "|") + `)\b`)
}

// files lists what may name a package.
func files(dir string) (list []string, err error) {
	cmd := exec.Command("git", "ls-files", "-z", "*.go", "go.mod", "Makefile", "*.md", "*.sh")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing the files that git knows: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		list = append(list, filepath.Join(dir, name))
	}
	return list, nil
}

func write(name string, text []byte) error {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed, and git does not know yet
	} else if err != nil {
		return err
	}
	return atomicfile.Write(name, text, info.Mode().Perm())
}
