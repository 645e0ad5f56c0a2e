package guest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// moduleTree is the lib/modules/VERSION directory of a kernel.
type moduleTree struct {
	dir     string
	deps    map[string][]string // file to the files it needs, nearest first, all relative to dir
	files   map[string]string   // module name to file
	builtin map[string]bool     // names of what the kernel has built in
}

// loadModuleTree reads modules.dep and modules.builtin, as depmod(8) and the kernel's build write them.
func loadModuleTree(dir string) (*moduleTree, error) {
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("the guests' kernel modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the guests' kernel modules: %w", err)
	}
	t := parseModules(string(dep), string(builtin))
	t.dir = dir
	return t, nil
}

func parseModules(dep, builtin string) *moduleTree {
	t := &moduleTree{deps: map[string][]string{}, files: map[string]string{}, builtin: map[string]bool{}}
	for line := range strings.Lines(dep) {
		file, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		t.deps[file] = strings.Fields(needs)
		t.files[moduleName(file)] = file
	}
	for line := range strings.Lines(builtin) {
		if line = strings.TrimSpace(line); line != "" {
			t.builtin[moduleName(line)] = true
		}
	}
	return t
}

// moduleName makes virtio_net of kernel/drivers/net/virtio-net.ko.xz.
func moduleName(file string) string {
	name := filepath.Base(file)
	if i := strings.Index(name, ".ko"); i >= 0 {
		name = name[:i]
	}
	return strings.ReplaceAll(name, "-", "_")
}

// resolve returns the files to load for the named modules, in an order that satisfies each one's needs.
func (t *moduleTree) resolve(names []string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	add := func(file string) {
		if !seen[file] {
			seen[file] = true
			order = append(order, file)
		}
	}
	for _, name := range names {
		name = moduleName(name)
		file, ok := t.files[name]
		if !ok {
			if t.builtin[name] {
				continue
			}
			return nil, fmt.Errorf("the guests' kernel in %s has no module %s", t.dir, name)
		}
		needs := t.deps[file]
		for i := len(needs) - 1; i >= 0; i-- {
			add(needs[i])
		}
		add(file)
	}
	return order, nil
}

// read returns a module's contents, decompressed: not every kernel does that itself.
func (t *moduleTree) read(file string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(t.dir, file))
	if err != nil {
		return nil, err
	}
	data, err = decompress(data)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", file, err)
	}
	return data, nil
}

// decompress undoes gzip, xz or zstd, told by the first bytes; other data is returned as it is. Bytes after the
// compressed ones are ignored.
func decompress(data []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		r.Multistream(false)
		return io.ReadAll(r)
	case bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")):
		return filter(data, "xz", "-dc", "--single-stream")
	case bytes.HasPrefix(data, []byte("\x28\xb5\x2f\xfd")):
		return filter(data, "zstd", "-dcq")
	}
	return data, nil
}

func filter(data []byte, argv ...string) ([]byte, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s: %w: %s", argv[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out.Bytes(), nil
}
