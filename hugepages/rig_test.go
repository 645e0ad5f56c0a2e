package hugepages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/mount"
	"vhostkit/hugepages/pool/fake"
	"vhostkit/internal/sysedit"
)

// rig is a machine made of tables and a directory.
type rig struct {
	Host
	t       *testing.T
	kernel  *fake.Kernel
	mounter *mounter
	runner  *runner
}

// newRig makes a machine with two nodes of 16 GiB, systemd, and the files of a directory, if one is named.
func newRig(t *testing.T, files string) *rig {
	t.Helper()
	root := t.TempDir()
	if files != "" {
		if err := os.CopyFS(root, os.DirFS(files)); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{t: t, kernel: fake.New(16*bytesize.GiB, 16*bytesize.GiB)}
	r.write("/usr/lib/systemd/system/dev-hugepages.mount", "[Mount]\n")
	r.runner = &runner{programs: map[string]string{"update-grub": ""}}
	r.mounter = &mounter{kernel: r.kernel, busy: map[string]error{}, files: map[string]bool{}}
	r.Host = Host{Store: sysedit.Store{Root: root}, Kernel: r.kernel, Mounter: r.mounter, Runner: r.runner}
	r.kernel.Texts["/proc/sys/kernel/osrelease"] = "6.1.0-18-amd64\n"
	r.kernel.Texts["/proc/cmdline"] = "root=/dev/vda\n"
	r.kernel.Texts["/proc/sys/kernel/random/boot_id"] = "one\n"
	r.mounter.set(mount.Mount{Path: root + "/dev/hugepages", Size: 2 * bytesize.MiB})
	r.write("/usr/lib/systemd/system/dev-hugepages.mount", "[Mount]\n")
	return r
}

func (r *rig) write(path, content string) {
	r.t.Helper()
	full := filepath.Join(r.Store.Root, path)
	if r.Store.Root == "" {
		return
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

// snapshot reads all files but those of the edit store.
func (r *rig) snapshot() map[string]string {
	r.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(r.Store.Root, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, r.Store.Root)
		if err != nil || d.IsDir() || strings.HasPrefix(name, sysedit.DefaultState) || strings.Contains(name, ".vhostkit-") {
			return err
		}
		data, err := os.ReadFile(path)
		all[name] = string(data)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// state is all of the machine that may change.
func (r *rig) state() string {
	var b strings.Builder
	files := r.snapshot()
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s: %q\n", name, files[name])
	}
	for node := range 2 {
		fmt.Fprintln(&b, "node", node, r.kernel.Count(node, bytesize.GiB), r.kernel.Count(node, 2*bytesize.MiB))
	}
	fmt.Fprintln(&b, r.kernel.Texts["/proc/self/mounts"])
	return b.String()
}

func (r *rig) plan(request Request) *Plan {
	r.t.Helper()
	p, err := r.Plan(r.t.Context(), request)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (r *rig) provision(request Request) *Plan {
	r.t.Helper()
	p := r.plan(request)
	if err := p.Apply(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (r *rig) undo() {
	r.t.Helper()
	u, err := r.Undo(false)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := u.Apply(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// runner pretends to run programs.
type runner struct {
	programs map[string]string // with what they print
	fail     string            // the program that fails
	ran      []string
}

func (r *runner) Has(name string) bool { _, ok := r.programs[name]; return ok }

func (r *runner) Run(_ context.Context, argv ...string) (string, error) {
	r.ran = append(r.ran, strings.Join(argv, " "))
	if r.fail == argv[0] {
		return "", fmt.Errorf("%s: exit status 1: no space left", argv[0])
	}
	return r.programs[argv[0]], nil
}

// mounter pretends to mount.
type mounter struct {
	kernel *fake.Kernel
	list   []mount.Mount
	busy   map[string]error // by path: what unmounting fails with
	files  map[string]bool
	refuse string // the path that cannot be mounted
}

func (m *mounter) set(mounts ...mount.Mount) {
	m.list = mounts
	text := "sysfs /sys sysfs rw 0 0\n"
	for _, e := range m.list {
		text += fmt.Sprintf("hugetlbfs %s hugetlbfs rw,pagesize=%v 0 0\n", e.Path, e.Size)
	}
	m.kernel.Texts["/proc/self/mounts"] = text
}

func (m *mounter) Mount(e mount.Mount) (bool, error) {
	if m.refuse == e.Path {
		return false, errors.New("mount: permission denied")
	}
	m.set(append(m.list, mount.Mount{Path: e.Path, Size: e.Size})...)
	return true, nil
}

func (m *mounter) Unmount(path string, _ bool) error {
	if err := m.busy[path]; err != nil {
		return err
	}
	m.set(slices.DeleteFunc(slices.Clone(m.list), func(e mount.Mount) bool { return e.Path == path })...)
	return nil
}

func (m *mounter) Files(path string) (bool, error) { return m.files[path], nil }
