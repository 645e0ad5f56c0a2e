// Package hugepages tries package vhostkit/hugepages on this machine's kernel and in guests that boot what it wrote. It stands apart so that
// it is the only one that changes this machine's pools.
package hugepages

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/hugepages"
	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/mount"
	"vhostkit/hugepages/pool"
	"vhostkit/internal/sysedit"
)

// needRoot ends the test where the kernel's pools cannot be changed. In CI that is a failure.
func needRoot(t *testing.T) pool.State {
	t.Helper()
	state, err := pool.Look(pool.System{})
	if os.Geteuid() == 0 && err == nil {
		return state
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("this test needs root and a kernel with hugepages (%v)", err)
	}
	t.Skipf("this test needs root and a kernel with hugepages (%v)", err)
	return state
}

// realHost works on this machine's kernel, and on files and mount points below a directory.
func realHost(t *testing.T) hugepages.Host {
	t.Helper()
	h := hugepages.System()
	h.Store = sysedit.Store{Root: t.TempDir()}
	t.Cleanup(func() {
		// A test that failed half way must not leave mounts behind.
		for _, m := range mountsBelow(t, h.Store.Root) {
			if err := unix.Unmount(m.Path, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	})
	return h
}

func mountsBelow(t *testing.T, root string) []mount.Mount {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var list []mount.Mount
	for _, m := range mount.Parse(string(text), 0).Huge {
		if strings.HasPrefix(m.Path, root) {
			list = append(list, m)
		}
	}
	return list
}

func counts(t *testing.T) map[bytesize.Size]uint64 {
	t.Helper()
	state, err := pool.Look(pool.System{})
	if err != nil {
		t.Fatal(err)
	}
	m := map[bytesize.Size]uint64{}
	for _, p := range state.Pools {
		m[p.Size] = p.Total
	}
	return m
}

// restorePools puts the machine's pools back whatever happens.
func restorePools(t *testing.T, state pool.State) {
	t.Cleanup(func() {
		for _, n := range state.Nodes {
			for _, p := range n.Pools {
				if _, err := pool.Set(pool.System{}, []pool.Target{{Node: n.ID, Size: p.Size, Count: p.Total}}); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// TestReal reserves, mounts, uses and releases pages of this machine.
func TestReal(t *testing.T) {
	state := needRoot(t)
	restorePools(t, state)
	const page = 2 * bytesize.MiB
	before := counts(t)
	h := realHost(t)
	request := hugepages.Request{ForVMs: page * bytesize.Size(before[page]+4), ForSwitch: 2 * page, PageSize: page, Runtime: true}
	provision(t, h, request)
	if got := counts(t)[page]; got != before[page]+6 {
		t.Fatalf("%d pages, want %d", got, before[page]+6)
	}
	if p, err := h.Plan(t.Context(), request); err != nil || !p.Empty() {
		t.Fatalf("a second time there is something to do: %v", err)
	}

	dir := hugetlbfs(t, h)
	if len(dir) == 0 {
		t.Fatal("nothing is mounted")
	}
	use := useFile(t, filepath.Join(dir, "vhostkit-test"), 2*page)
	report, err := h.Show()
	if err != nil {
		t.Fatal(err)
	}
	pages := uint64(0)
	for _, u := range report.Users {
		if u.PID == os.Getpid() && u.File == use.path {
			pages = u.Pages
		}
	}
	if pages != 2 {
		t.Errorf("this process does not appear with 2 pages: %+v", report.Users)
	}
	// Pages in use stay, even if asked exactly for fewer.
	exact := hugepages.Request{ForVMs: page, PageSize: page, Runtime: true, Exact: true}
	if before[page] == 0 {
		provision(t, h, exact)
		if got := counts(t)[page]; got < 2 {
			t.Errorf("pages in use were taken away: %d are left", got)
		}
	}
	use.close(t)
	undo(t, h)
	if got := counts(t)[page]; got != before[page] {
		t.Errorf("after undo %d pages, before %d", got, before[page])
	}
	if left := mountsBelow(t, h.Store.Root); len(left) > 0 {
		t.Errorf("after undo mounts are left: %+v", left)
	}
}

// TestRealGuide makes the set-up of the guide to DPDK's vhost sample (docs/dpdk-compat.md, 4) on this machine: a page
// of 1 GiB on the default mount, pages of 2 MiB beside it.
func TestRealGuide(t *testing.T) {
	state := needRoot(t)
	restorePools(t, state)
	if state.Total(bytesize.GiB).Size == 0 || len(state.Sizes()) < 2 || state.Nodes[0].FreeMemory < 4*bytesize.GiB {
		t.Logf("this machine has no pages of 1 GiB, or not the memory for one: only the error is looked at")
		h := realHost(t)
		if _, err := h.Plan(t.Context(), hugepages.Request{ForVMs: 1 << 50, Runtime: true}); !errors.Is(err, hugepages.ErrRequest) {
			t.Fatal(err)
		}
		return
	}
	before := counts(t)
	h := realHost(t)
	request := hugepages.Request{ForVMs: bytesize.GiB * bytesize.Size(before[bytesize.GiB]+1), ForSwitch: 8 * bytesize.MiB, Runtime: true}
	provision(t, h, request)
	sizes := map[bytesize.Size]bool{}
	for _, m := range mountsBelow(t, h.Store.Root) {
		sizes[m.Size] = true
	}
	if got := counts(t); got[bytesize.GiB] != before[bytesize.GiB]+1 || got[2*bytesize.MiB] < 4 || !sizes[bytesize.GiB] && len(state.Sizes()) > 1 && before[bytesize.GiB] == 0 || !sizes[2*bytesize.MiB] {
		t.Errorf("pools %v, mounts %v", got, sizes)
	}
	findings, err := h.Verify()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if !f.OK {
			t.Errorf("verify: %+v", f)
		}
	}
	undo(t, h)
	if got := counts(t); got[bytesize.GiB] != before[bytesize.GiB] || got[2*bytesize.MiB] != before[2*bytesize.MiB] {
		t.Errorf("after undo %v, before %v", got, before)
	}
	if left := mountsBelow(t, h.Store.Root); len(left) > 0 {
		t.Errorf("after undo mounts are left: %+v", left)
	}
}

func provision(t *testing.T, h hugepages.Host, request hugepages.Request) {
	t.Helper()
	p, err := h.Plan(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func undo(t *testing.T, h hugepages.Host) {
	t.Helper()
	u, err := h.Undo(false)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// hugetlbfs is where pages of 2 MiB are mounted: by this test, or before.
func hugetlbfs(t *testing.T, h hugepages.Host) string {
	t.Helper()
	report, err := h.Show()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range report.Mounts {
		if m.Size == 2*bytesize.MiB {
			return m.Path
		}
	}
	return ""
}

// file is a mapped file of a hugetlbfs.
type file struct {
	path string
	data []byte
}

func useFile(t *testing.T, path string, size bytesize.Size) *file {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	u := &file{path, data}
	t.Cleanup(func() { u.close(t) })
	for i := 0; i < len(data); i += 1 << 21 {
		data[i] = 1
	}
	return u
}

func (u *file) close(t *testing.T) {
	t.Helper()
	if u.data == nil {
		return
	}
	if err := errors.Join(unix.Munmap(u.data), os.Remove(u.path)); err != nil {
		t.Error(err)
	}
	u.data = nil
	// The kernel counts pages free a moment after the last user has gone.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		state, err := pool.Look(pool.System{})
		if err != nil {
			t.Fatal(err)
		}
		if p := state.Total(2 * bytesize.MiB); p.InUse() == 0 || time.Now().After(deadline) {
			return
		}
	}
}
