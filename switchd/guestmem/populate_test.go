package guestmem

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// islands makes a memfd with holes between pieces of data, as a guest is whose memory was partly used, and maps it cold.
func islands(t *testing.T, size int64, data ...[2]int64) (int, *Memory) {
	t.Helper()
	fd := memfd(t, size)
	for _, d := range data {
		for at := d[0]; at < d[1]; at += 4096 {
			if _, err := unix.Pwrite(fd, []byte{1}, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	m, err := Map([]RegionSpec{{Size: uint64(size), FD: fd}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return fd, m
}

func blocks(t *testing.T, fd int) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// mappedBytes is how much of a mapping is in our page tables (Rss of /proc/self/smaps).
func mappedBytes(t *testing.T, m *Memory) int {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	start := strconv.FormatUint(uint64(AddressOf(m.regions[0].mapping.data)), 16) + "-"
	_, rest, ok := strings.Cut("\n"+string(smaps), "\n"+start)
	if !ok {
		t.Fatalf("no mapping at %s", start)
	}
	_, rest, _ = strings.Cut(rest, "\nRss:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func waitEnded(t *testing.T, f *Filling) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); f.Active(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("still populating after 20 s")
		}
	}
}

// faults counts the page faults of f's thread.
func faults(f func()) int64 {
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &before)
	f()
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &after)
	return after.Minflt - before.Minflt
}

const mib = 1 << 20

// TestFillMapsWhatIsThere: every resident page is mapped, so that writing it does not fault, and no hole becomes memory.
func TestFillMapsWhatIsThere(t *testing.T) {
	fd, m := islands(t, 64*mib, [2]int64{0, 4096}, [2]int64{5 * mib, 9 * mib}, [2]int64{33 * mib, 33*mib + 3*4096}, [2]int64{64*mib - 4096, 64 * mib})
	before := blocks(t, fd)
	waitEnded(t, NewPopulator().Fill(m))
	if after := blocks(t, fd); after != before {
		t.Errorf("the file grew from %d to %d blocks of 512 bytes", before, after)
	}
	if got, want := mappedBytes(t, m), 4*mib+5*4096; got != want {
		t.Errorf("%d bytes are mapped, want %d", got, want)
	}
	p, _ := m.User(5*mib, 4*mib)
	if n := faults(func() {
		for at := Ptr(0); at < 4*mib; at += 4096 {
			(p + at).Bytes(1)[0] = 2
		}
	}); n > 50 { // the runtime has some of its own
		t.Errorf("writing 1024 populated pages faulted %d times", n)
	}
}

// TestRangesPopulate: buffers are mapped with the gaps between near ones, not what is far or a hole; a descriptor of gigabytes counts little.
func TestRangesPopulate(t *testing.T) {
	fd, m := islands(t, 64*mib, [2]int64{8 * mib, 24 * mib})
	before := blocks(t, fd)
	base, _ := m.User(0, 1)
	r := m.Ranges()
	r.Add(base+9*mib, 48*mib)     // 64 KiB of it
	r.Add(base+8*mib, 2048)       // 1 page
	r.Add(base+8*mib+32768, 2048) // near: 8 more
	r.Add(base+8*mib+32768, 2048) // again
	r.Add(base+40*mib, 2048)      // a hole
	r.Add(base+64*mib-10, 4096)   // ends outside
	r.Add(1, 4096)                // nowhere
	r.Add(base+8*mib+4096*100, 0) // empty
	r.Populate(time.Now().Add(10 * time.Second))
	got := mappedBytes(t, m)
	if want := 64<<10 + 9*4096; got < want || got > want+128<<10 { // a read fault maps neighbours, too
		t.Errorf("%d bytes are mapped, want %d and few more", got, want)
	}
	if after := blocks(t, fd); after != before {
		t.Errorf("the file grew from %d to %d blocks", before, after)
	}
	r = m.Ranges()
	r.Add(base+16*mib, 4096)
	r.Populate(time.Now().Add(-time.Second))
	if now := mappedBytes(t, m); now != got {
		t.Errorf("%d bytes were mapped after the deadline", now-got)
	}
	if m.PopulateNow(base+40*mib, 10) || !m.PopulateNow(base+16*mib, 10) {
		t.Error("PopulateNow is wrong about what is there")
	}
}

// TestFillOfTruncatedFile: what is gone is neither a signal nor an endless loop.
func TestFillOfTruncatedFile(t *testing.T) {
	fd, m := islands(t, 64*mib, [2]int64{0, 32 * mib})
	if err := unix.Ftruncate(fd, 7*mib+100); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, NewPopulator().Fill(m))
	if got, want := mappedBytes(t, m), 7*mib+4096; got != want {
		t.Errorf("%d bytes are mapped, want %d", got, want)
	}
	p, _ := m.User(20*mib, 4096)
	if m.Require(p, 4096) {
		t.Error("a page that is gone was mapped")
	}
}

// TestStopGivesUpTheMappings: a guest that goes while it is populated leaves nothing mapped, whether it has its turn or waits for it.
func TestStopGivesUpTheMappings(t *testing.T) {
	p := NewPopulator()
	var all []*Filling
	for range 20 {
		fd := memfd(t, 64*mib)
		if err := unix.Fallocate(fd, 0, 0, mib); err != nil {
			t.Fatal(err)
		}
		m, err := Map([]RegionSpec{{Size: 64 * mib, FD: fd}})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p.Fill(m))
		m.Close()
	}
	for _, f := range all {
		f.Stop()
		f.Stop()
		if f.Active() {
			t.Error("active after Stop")
		}
	}
	for end := time.Now().Add(5 * time.Second); mapped(t) != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d mappings left", mapped(t))
		}
	}
	_, m := islands(t, mib, [2]int64{0, mib})
	waitEnded(t, p.Fill(m)) // it still works
	if got := mappedBytes(t, m); got != mib {
		t.Errorf("%d bytes are mapped, want all", got)
	}
}

// TestFillIsFair: a small guest is done long before a large one that came first.
func TestFillIsFair(t *testing.T) {
	p := NewPopulator()
	_, large := islands(t, 1<<36) // 64 GiB without a page: only looking takes a second
	first := p.Fill(large)
	defer first.Stop()
	_, small := islands(t, mib, [2]int64{0, mib})
	waitEnded(t, p.Fill(small))
	if !first.Active() {
		t.Error("the large guest was done before the small one")
	}
}

// TestUnknownStaysCold: of a file whose pages nobody can tell, nothing is touched but what is required.
func TestUnknownStaysCold(t *testing.T) {
	fd, m := islands(t, 4*mib, [2]int64{0, mib})
	m.regions[0].mapping.residency = unknown
	before := blocks(t, fd)
	waitEnded(t, NewPopulator().Fill(m))
	if got := mappedBytes(t, m); got != 0 || blocks(t, fd) != before {
		t.Errorf("%d bytes are mapped", got)
	}
	p, _ := m.User(2*mib, 4096)
	if !m.Require(p, 4096) || mappedBytes(t, m) == 0 {
		t.Error("what is required was not mapped")
	}
}

// TestMincoreThatLies: who may not write the file is told that all of it is there. That must not be believed.
func TestMincoreThatLies(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("takes root, to become somebody else")
		}
		t.Skip("takes root, to become somebody else")
	}
	fd := memfd(t, mib)
	if err := unix.Fchmod(fd, 0o600); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	if got := residencyOf(fd, &st); got != byPage {
		t.Errorf("the owner's own file: %d", got)
	}
	asNobody(t, func() {
		if got := residencyOf(fd, &st); got != unknown {
			t.Errorf("a file that may not be written: %d, want unknown", got)
		}
	})
}

// asNobody runs f in a thread whose file system checks are an unprivileged user's.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()                                                                               // and never unlock: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 { // this thread's alone
			t.Errorf("becoming nobody: %v", errno)
			return
		}
		f()
	}()
	<-done
}

// TestHugetlb: a file that is wholly allocated is mapped; from one with holes nothing is taken.
func TestHugetlb(t *testing.T) {
	const pages, size = 4, 8 * mib
	reserveHuge(t, pages)
	fd, err := unix.MemfdCreate("guestmem-test", unix.MFD_CLOEXEC|unix.MFD_HUGETLB|unix.MFD_HUGE_2MB)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	for _, allocated := range []int64{size / 2, size} {
		if err := unix.Fallocate(fd, 0, 0, allocated); err != nil {
			t.Fatal(err)
		}
		m, err := Map([]RegionSpec{{Size: size, FD: fd}})
		if err != nil {
			t.Fatal(err)
		}
		before := blocks(t, fd)
		waitEnded(t, NewPopulator().Fill(m))
		if after := blocks(t, fd); after != before {
			t.Errorf("%d bytes allocated: the file grew from %d to %d blocks", allocated, before, after)
		}
		p, _ := m.User(0, size)
		// An interrupted look would count as faults: each page is 1 fault, the runtime has a few.
		n := faults(func() {
			for at := Ptr(0); at < Ptr(allocated); at += 2 * mib {
				(p + at).Bytes(1)[0] = 1
			}
		})
		if allocated == size && n >= pages {
			t.Errorf("%d faults on %d pages that were populated", n, pages)
		}
		m.Close()
	}
}

// reserveHuge has the kernel keep that many pages of 2 MiB more, until the test ends.
func reserveHuge(t *testing.T, pages int) {
	t.Helper()
	const path = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
	read := func(name string) int {
		b, err := os.ReadFile(path + name)
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	if read("free_hugepages") >= pages {
		return
	}
	before := read("nr_hugepages")
	if os.WriteFile(path+"nr_hugepages", []byte(strconv.Itoa(before+pages)), 0) != nil || read("free_hugepages") < pages {
		if os.Getenv("CI") == "true" {
			t.Fatal("no hugepages can be had on this machine")
		}
		t.Skip("no hugepages can be had on this machine")
	}
	t.Cleanup(func() { _ = os.WriteFile(path+"nr_hugepages", []byte(strconv.Itoa(before)), 0) })
}
