package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// baseModules are what each guest needs, built in or not.
var baseModules = []string{"virtio_pci", "virtio_console"}

// modulesFor lists the modules, each with its parameters, that the guest's devices need.
func modulesFor(c Config) []string {
	list := slices.Clone(baseModules)
	if len(c.NICs) > 0 {
		list = append(list, "virtio_net")
	}
	if c.HostRoot {
		list = append(list, "9pnet_virtio", "9p")
	}
	return append(list, c.Modules...)
}

// writeInitramfs writes the guest's root file system to w. It is not compressed: unpacking would cost an emulated
// processor more than reading.
func writeInitramfs(ctx context.Context, w io.Writer, c Config, k Kernel) error {
	agent, err := buildAgent(ctx)
	if err != nil {
		return err
	}
	entries := []entry{
		directory("bin"), directory("dev"), directory("etc"), directory("etc/rig"), directory("host"),
		directory("lib"), directory("lib/modules"), directory("proc"), directory("root"), directory("run"),
		directory("sbin"), directory("sys"), directory("tmp"), directory("usr"), directory("usr/bin"), directory("usr/sbin"),
		{name: "init", mode: cpioRegular | 0o755, data: agent},
		// The kernel opens it for the first process before anything is mounted.
		{name: "dev/console", mode: cpioCharacter | 0o600, major: 5, minor: 1},
		{name: "etc/passwd", mode: cpioRegular | 0o644, data: []byte("root:x:0:0:root:/root:/bin/sh\n")},
		{name: "etc/group", mode: cpioRegular | 0o644, data: []byte("root:x:0:\n")},
	}
	box, err := busyboxEntries(ctx)
	if err != nil {
		return err
	}
	mods, err := moduleEntries(modulesFor(c), k)
	if err != nil {
		return err
	}
	files, err := fileEntries(c.Files)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(w, 1<<20)
	archive := &cpioWriter{w: buffered}
	for _, e := range slices.Concat(entries, box, mods, files) {
		archive.add(e)
	}
	return errors.Join(archive.close(), buffered.Flush())
}

func directory(name string) entry { return entry{name: name, mode: cpioDirectory | 0o755} }

// busyboxEntries is busybox under each of its names.
func busyboxEntries(ctx context.Context) ([]entry, error) {
	box := os.Getenv("VHOSTKIT_BUSYBOX")
	if box == "" {
		var err error
		if box, err = exec.LookPath("busybox"); err != nil {
			return nil, fmt.Errorf("%w: run test/setup/install.sh demo, or set VHOSTKIT_BUSYBOX to a statically linked busybox", err)
		}
	}
	data, err := os.ReadFile(box)
	if err != nil {
		return nil, err
	}
	list, err := exec.CommandContext(ctx, box, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", box, err)
	}
	entries := []entry{{name: "bin/busybox", mode: cpioRegular | 0o755, data: data}}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" && !strings.Contains(applet, "/") {
			entries = append(entries, entry{name: "bin/" + applet, mode: cpioSymlink | 0o777, data: []byte("busybox")})
		}
	}
	return entries, nil
}

// moduleEntries is the modules with all they need, and the list of them that the agent loads from.
func moduleEntries(wanted []string, k Kernel) ([]entry, error) {
	tree, err := loadModuleTree(k.Modules)
	if err != nil {
		return nil, err
	}
	var names []string
	params := map[string]string{}
	for _, w := range wanted {
		name, p, _ := strings.Cut(w, " ")
		names = append(names, name)
		params[moduleName(name)] = p
	}
	order, err := tree.resolve(names)
	if err != nil {
		return nil, err
	}
	var entries []entry
	var list strings.Builder
	for _, file := range order {
		data, err := tree.read(file)
		if err != nil {
			return nil, err
		}
		name := moduleName(file)
		entries = append(entries, entry{name: "lib/modules/" + name + ".ko", mode: cpioRegular | 0o644, data: data})
		fmt.Fprintf(&list, "/lib/modules/%s.ko %s\n", name, params[name])
	}
	return append(entries, entry{name: "etc/rig/modules", mode: cpioRegular | 0o644, data: []byte(list.String())}), nil
}

// fileEntries is the Config's own files, with the directories they are in.
func fileEntries(files map[string]string) ([]entry, error) {
	var entries []entry
	made := map[string]bool{}
	for _, to := range slices.Sorted(maps.Keys(files)) {
		from := files[to]
		name := strings.TrimPrefix(path.Clean("/"+to), "/")
		for i, r := range name {
			if dir := name[:i]; r == '/' && !made[dir] {
				made[dir] = true
				entries = append(entries, directory(dir))
			}
		}
		info, err := os.Stat(from)
		if err != nil {
			return nil, fmt.Errorf("file %s of the guest: %w", to, err)
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, fmt.Errorf("file %s of the guest: %w", to, err)
		}
		entries = append(entries, entry{name: name, mode: cpioRegular | uint32(info.Mode().Perm()), data: data})
	}
	return entries, nil
}
