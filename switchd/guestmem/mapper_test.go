package guestmem

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/foreign"
)

// TestAllowList: what guest memory may lie in, and what is said of other files.
func TestAllowList(t *testing.T) {
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	null, err := os.OpenFile("/dev/zero", os.O_RDWR, 0) // on devtmpfs, which calls itself tmpfs; with a driver's mmap
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	disk := file(t, t.TempDir())
	if foreign.IsMemory(disk) {
		t.Fatal("the directory for temporary files is on tmpfs: set TMPDIR to one that is on a disk")
	}
	for name, c := range map[string]struct {
		fd    int
		plain bool // goes without the option
		any   bool // goes with it
		says  string
	}{
		"memfd": {memfd(t, 0x1000), true, true, ""}, "tmpfs": {file(t, "/dev/shm"), true, true, ""}, "disk": {disk, false, true, "--unsafe-memory-files"},
		"device": {int(null.Fd()), false, true, "memory-backend-memfd"}, "pipe": {pipe[0], false, false, "pipe"},
	} {
		for any, goes := range map[bool]bool{false: c.plain, true: c.any} {
			m, err := (Mapper{AnyFile: any}).Map([]RegionSpec{{Size: 0x1000, FD: c.fd}})
			switch {
			case goes && err != nil:
				t.Errorf("%s, any file %v: %v", name, any, err)
			case goes:
				m.Close()
			case !errors.Is(err, ErrRegion) || !any && !strings.Contains(err.Error(), c.says):
				t.Errorf("%s, any file %v: %v, want ErrRegion with %q", name, any, err, c.says)
			}
		}
	}
}

// TestHugePages: they may be mapped without the option, and count in whole pages. Where this machine has none free it is given two.
func TestHugePages(t *testing.T) {
	const huge, pool = 2 << 20, "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	if before, err := os.ReadFile(pool); err == nil && strings.TrimSpace(string(before)) == "0" && os.Getuid() == 0 {
		if os.WriteFile(pool, []byte("2"), 0) == nil {
			t.Cleanup(func() { _ = os.WriteFile(pool, before, 0) })
		}
	}
	fd, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB|unix.MFD_HUGE_2MB)
	if err != nil {
		t.Fatalf("memfd of hugepages: %v", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 2*huge); err != nil {
		t.Fatal(err)
	}
	b, a := account(budget.Limit{Total: 8 << 20, User: 8 << 20, Account: 8 << 20})
	m, err := (Mapper{Files: foreign.New(a)}).Map([]RegionSpec{{Size: 0x2000, MmapOffset: huge - 0x1000, FD: fd}})
	if err != nil {
		t.Fatal(err) // nothing is reserved by mapping, so free pages are not needed
	}
	if n := b.Usage()[budget.AddressSpace].Used; n != 2*huge {
		t.Errorf("two hugepages of address space, counted are %d bytes", n)
	}
	m.Close()
}

// account has a limit for each resource.
func account(l budget.Limit) (*budget.Budget, *budget.Account) {
	var all budget.Limits
	for r := range all {
		all[r] = l
	}
	b := budget.New(all, nil)
	return b, b.Open(1, false)
}

// TestSparseMemoryIsCounted: a front-end needs no memory to share terabytes of it; the address space is bounded all the same.
func TestSparseMemoryIsCounted(t *testing.T) {
	const size = 1 << 40
	b, a := account(budget.Limit{Total: 3*size + 8, User: 3*size + 8, Account: 3*size + 8})
	fd := memfd(t, size)
	var held []*Memory
	for {
		m, err := (Mapper{Files: foreign.New(a)}).Map([]RegionSpec{{Size: size, FD: fd}})
		if err != nil {
			var e *budget.ExceededError
			if !errors.As(err, &e) || e.Resource != budget.AddressSpace || errors.Is(err, ErrRegion) {
				t.Errorf("%v, want an ExceededError about the address space", err)
			}
			break
		}
		if held = append(held, m); len(held) > 3 {
			t.Fatal("4 TiB are mapped, 3 are allowed")
		}
	}
	if n := mapped(t); n != 3 {
		t.Errorf("%d mappings, want 3", n)
	}
	for _, m := range held {
		m.Close()
	}
	for _, u := range b.Usage() {
		if u.Used != 0 {
			t.Errorf("%d of %v are not given back", u.Used, u.Resource)
		}
	}
}

// TestMappingsAreCounted: so do mappings, which are few (vm.max_map_count); each is counted once, however many tables have it.
func TestMappingsAreCounted(t *testing.T) {
	b, _ := account(budget.Limit{Total: 1 << 40, User: 1 << 40, Account: 1 << 40})
	limits := b.Limits()
	limits[budget.Mappings] = budget.Limit{Total: 10, User: 10, Account: 10}
	b = budget.New(limits, nil)
	a := b.Open(1, false)
	fd := memfd(t, 0x1000)
	m, err := (Mapper{Files: foreign.New(a)}).Map(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(12) {
		next, err := m.With(RegionSpec{GuestPhysAddr: i << 20, UserAddr: i << 20, Size: 0x1000, FD: fd})
		if (err != nil) != (i >= 10) {
			t.Errorf("region %d: %v", i, err)
		}
		if err != nil {
			continue
		}
		m.Close()
		m = next
		if n := a.Used(budget.Mappings); n != i+1 {
			t.Errorf("%d mappings counted with %d regions", n, i+1)
		}
	}
	fewer, err := m.Without(0, 0, 0x1000)
	if err != nil {
		t.Fatal(err)
	}
	if n := a.Used(budget.Mappings); n != 10 { // m still has it
		t.Errorf("%d mappings counted, want 10", n)
	}
	m.Close()
	if n := a.Used(budget.Mappings); n != 9 {
		t.Errorf("%d mappings counted, want 9", n)
	}
	fewer.Close()
	if n := a.Used(budget.Mappings) + a.Used(budget.GuestMemory) + a.Used(budget.AddressSpace); n != 0 {
		t.Errorf("%d are not given back", n)
	}
}

// TestRefusedMappingCostsNothing: what was counted before the mmap failed is given back.
func TestRefusedMappingCostsNothing(t *testing.T) {
	b, a := account(budget.Limit{Total: 1 << 62, User: 1 << 62, Account: 1 << 62})
	readOnly, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	if _, err := (Mapper{Files: foreign.New(a), AnyFile: true}).Map([]RegionSpec{{Size: 0x1000, FD: int(readOnly.Fd())}}); !errors.Is(err, ErrRegion) {
		t.Errorf("%v, want ErrRegion", err)
	}
	for _, u := range b.Usage() {
		if u.Used != 0 {
			t.Errorf("%d of %v are not given back", u.Used, u.Resource)
		}
	}
}
