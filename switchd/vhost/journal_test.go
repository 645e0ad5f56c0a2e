package vhost

import (
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

const testEntries = 8192

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func openJournal(t testing.TB, path string, entries int, log *slog.Logger) *Journal {
	t.Helper()
	j, err := OpenJournal(path, entries, log)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// TestJournal: a position is there for the next process if the ring was kept, and gone if it was not.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	region := guestmem.Region{Device: 1, Inode: 2, Birth: 3}
	j := openJournal(t, path, testEntries, quiet)
	if _, err := OpenJournal(path, testEntries, quiet); err == nil {
		t.Error("two processes share a journal")
	}
	kept, position := j.claim(region, 0, 256)
	gone, _ := j.claim(region, 4096, 256)
	if kept.index < 0 || gone.index < 0 || kept.index == gone.index || position != 0 {
		t.Fatalf("entries %+v and %+v, position %d", kept, gone, position)
	}
	if twice, _ := j.claim(region, 0, 256); twice.index >= 0 {
		t.Error("two rings claimed one entry")
	}
	kept.at.StoreU64(71)
	gone.at.StoreU64(72)
	j.release(kept, true)
	j.release(gone, false)
	j.Close()
	j.release(kept, true) // a session that ends late
	if e, _ := j.claim(region, 8192, 256); e.index >= 0 {
		t.Error("a closed journal gives entries")
	}

	j = openJournal(t, path, 1, quiet) // a smaller configuration loses nothing
	defer j.Close()
	for _, k := range []struct {
		name   string
		region guestmem.Region
		offset uint64
		size   uint32
		want   uint64
	}{
		{"another size", region, 0, 512, 0},
		{"another file", guestmem.Region{Device: 1, Inode: 3, Birth: 3}, 0, 256, 0},
		{"another file with that inode", guestmem.Region{Device: 1, Inode: 2, Birth: 4}, 0, 256, 0},
		{"device and inode change places in what was once one number", guestmem.Region{Device: 0, Inode: 1<<32 | 2, Birth: 3}, 0, 256, 0},
		{"released", region, 4096, 256, 0},
		{"kept", region, 0, 256, 71},
	} {
		if e, got := j.claim(k.region, k.offset, k.size); e.index < 0 || got != k.want {
			t.Errorf("%s: entry %+v, position %d, want %d", k.name, e, got, k.want)
		}
	}
}

// TestJournalKeepsOthers: while unused entries are left, new rings take nothing from guests that have not connected again yet.
func TestJournalKeepsOthers(t *testing.T) {
	const rings = 1000 // more than 256, so that any one byte of a key is 0 in some
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path, 2*rings, quiet)
	for i := range uint64(rings) {
		e, _ := j.claim(guestmem.Region{Device: 1, Inode: i}, 0, 256)
		e.at.StoreU64(i + 1)
		j.release(e, true)
	}
	j.Close()
	j = openJournal(t, path, 2*rings, quiet)
	defer j.Close()
	for i := range uint64(rings) {
		if e, _ := j.claim(guestmem.Region{Device: 2, Inode: i}, 0, 256); e.index < 0 {
			t.Fatalf("no entry for new ring %d", i)
		}
	}
	for i := range uint64(rings) {
		if _, position := j.claim(guestmem.Region{Device: 1, Inode: i}, 0, 256); position != i+1 {
			t.Errorf("ring %d: position %d: lost", i, position)
		}
	}
}

// TestFullJournal: rings beyond its size run without it; places that are only remembered make room.
func TestFullJournal(t *testing.T) {
	j := openJournal(t, filepath.Join(t.TempDir(), "journal"), 3, quiet)
	defer j.Close()
	var last entry
	for i := range uint64(3) {
		if last, _ = j.claim(guestmem.Region{Inode: i}, 0, 8); last.index < 0 {
			t.Fatalf("no entry for ring %d of 3", i)
		}
	}
	if e, _ := j.claim(guestmem.Region{Inode: 9}, 0, 8); e.index >= 0 {
		t.Error("an entry in use was given away")
	}
	last.at.StoreU64(5)
	j.release(last, true)
	if e, position := j.claim(guestmem.Region{Inode: 9}, 0, 8); e.index != last.index || position != 0 {
		t.Errorf("entry %+v, position %d, want entry %d", e, position, last.index)
	}
}

// TestNoJournal: without a journal nothing is remembered, and nothing breaks.
func TestNoJournal(t *testing.T) {
	for _, j := range []*Journal{nil, {}} {
		e, position := j.claim(guestmem.Region{Inode: 1}, 0, 8)
		if e.index >= 0 || e.at != 0 || position != 0 {
			t.Errorf("entry %+v, position %d", e, position)
		}
		j.release(e, true)
		if j.Replace(4096) {
			t.Error("no journal has addresses")
		}
	}
}

// smallDisk mounts a file system of 4 MiB; fill takes all its space.
func smallDisk(t *testing.T, kind string) (dir string, fill func()) {
	dir = t.TempDir()
	image := filepath.Join(t.TempDir(), "image")
	commands := [][]string{{"mount", "-t", "tmpfs", "-o", "size=4M", "none", dir}}
	if kind == "ext4" {
		commands = [][]string{{"truncate", "-s", "4M", image}, {"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, dir}}
	}
	for _, c := range commands {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			if os.Getenv("CI") != "true" {
				t.Skipf("%v: %v: %s", c, err, out)
			}
			t.Fatalf("%v: %v: %s", c, err, out)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, func() {
		f, err := os.Create(filepath.Join(dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, piece := range []int{4096, 64} {
			for err = nil; err == nil; {
				_, err = f.Write(make([]byte, piece))
			}
			_ = f.Sync()
		}
	}
}

// TestFullDisk: with a full disk there is no journal, and one that was opened before goes on working.
func TestFullDisk(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			dir, fill := smallDisk(t, kind)
			j := openJournal(t, filepath.Join(dir, "journal"), testEntries, quiet)
			defer j.Close()
			fill()
			if j2, err := OpenJournal(filepath.Join(dir, "another"), testEntries, quiet); err == nil {
				j2.Close()
				t.Error("a journal was opened on a full disk")
			}
			for i := range uint64(testEntries) {
				e, _ := j.claim(guestmem.Region{Device: 1, Inode: i}, 0, 256)
				if e.index < 0 {
					t.Fatalf("ring %d is not journaled", i)
				}
				if fault := guestmem.Contain(func() { e.at.StoreReleaseU64(1) }); fault != nil {
					t.Fatalf("a worker that stores ring %d's position: %v", i, fault)
				}
			}
		})
	}
}

// TestTruncatedJournal: somebody truncates the file while workers store into it: one warning, and all go on.
func TestTruncatedJournal(t *testing.T) {
	var text strings.Builder
	var mu sync.Mutex
	log := slog.New(slog.NewTextHandler(writer(func(b []byte) { mu.Lock(); text.Write(b); mu.Unlock() }), nil))
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path, testEntries, log)
	defer j.Close()
	var workers sync.WaitGroup
	stop := make(chan struct{})
	for i := range uint64(4) {
		e, _ := j.claim(guestmem.Region{Inode: i}, 0, 256)
		workers.Add(1)
		go func() {
			defer workers.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if fault := guestmem.Contain(func() { e.at.StoreReleaseU64(1) }); fault != nil && !j.Replace(fault.Addr) {
					t.Errorf("%v: a port would be blamed", fault)
					return
				}
			}
		}()
	}
	first, _ := j.claim(guestmem.Region{Inode: 100}, 0, 256)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	j.release(first, true)
	for i := range uint64(100) {
		e, _ := j.claim(guestmem.Region{Inode: 200 + i}, 0, 256)
		j.release(e, i%2 == 0)
	}
	time.Sleep(20 * time.Millisecond)
	close(stop)
	workers.Wait()
	if e, _ := j.claim(guestmem.Region{Inode: 999}, 0, 256); e.index >= 0 {
		t.Error("a journal without a file gives entries")
	}
	if j.Replace(first.at + 1<<40) {
		t.Error("an address of somebody else is taken for the journal's")
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		n := strings.Count(text.String(), "will not survive a restart")
		mu.Unlock()
		if n == 1 {
			break
		}
		if n > 1 || time.Now().After(end) {
			t.Fatalf("%d warnings, want 1", n)
		}
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }
