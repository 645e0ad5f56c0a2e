package vhost

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// FuzzJournal opens a file of any content, in which this boot's id may stand in each entry. Nothing panics; a ring is given a position only from
// an entry of its own; and a queue that is started with it stands inside of its ring.
func FuzzJournal(f *testing.F) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		f.Fatal(err)
	}
	boot := sha256.Sum256(id)
	path := filepath.Join(f.TempDir(), "journal")
	places := []guestmem.Region{{Device: 1, Inode: 2, Birth: 3}, {Device: 1, Inode: 2}, {Inode: 1<<32 | 2}}
	real := openJournal(f, path, 4, quiet)
	for i, region := range places {
		e, _ := real.claim(region, 0, 8)
		e.at.StoreU64(1<<63 | uint64(i))
		real.release(e, true)
	}
	real.Close()
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, true)
	f.Add(append(seed, seed[:100]...), true) // entries twice
	f.Add([]byte(nil), false)
	f.Fuzz(func(t *testing.T, content []byte, ours bool) {
		content = content[:min(len(content), 1<<16)]
		for i := 0; ours && i+entryBytes <= len(content); i += entryBytes {
			copy(content[i:], boot[:16])
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // by the next process, and by the one after it
			j := openJournal(t, path, 4, quiet)
			for i, region := range places {
				before := positions(j, region)
				e, position := j.claim(region, 0, 8)
				if position != 0 && !before[position] {
					t.Fatalf("%+v: the position is %#x, in the file are %v", region, position, before)
				}
				if e.index >= 0 && e.at != guestmem.AddressOf(j.data)+guestmem.Ptr(e.index*entryBytes+entryPosition) {
					t.Fatalf("%+v: entry %+v is outside of the file", region, e)
				}
				if e.index >= 0 {
					resume(t, content, position, e.at)
				}
				if again, _ := j.claim(region, 0, 8); e.index >= 0 && again.index >= 0 {
					t.Fatalf("%+v was claimed twice", region)
				}
				j.release(e, i%2 == 0)
			}
			j.Close()
		}
	})
}

// positions are those that the file has for a ring, read without the index.
func positions(j *Journal, region guestmem.Region) map[uint64]bool {
	found := map[uint64]bool{}
	for i := range len(j.data) / entryBytes {
		p, ok := j.read(i)
		if ok && p == (place{device: region.Device, inode: region.Inode, birth: region.Birth, size: 8}) {
			found[(j.slot(i) + entryPosition).LoadU64()] = true
		}
	}
	return found
}

// resume starts a packed ring whose descriptors are the content too.
func resume(t *testing.T, content []byte, position uint64, at guestmem.Ptr) {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	copy(page[:128], content)
	base := guestmem.AddressOf(page)
	q, err := virtio.NewQueue(virtio.Config{
		Size: 8, Features: virtio.Bits(virtio.VIRTIO_F_VERSION_1, virtio.VIRTIO_F_RING_PACKED), Desc: base, Driver: base + 1024,
		Device: base + 2048, Memory: &guestmem.Memory{}, State: virtio.State{AvailWrap: true}, Kick: -1, Call: -1, Journal: at, Resume: position,
	})
	if err != nil {
		t.Fatal(err)
	}
	q.Start()
	if s := q.State(); s.Avail >= 8 {
		t.Fatalf("position %#x: the queue stands at %+v in a ring of 8", position, s)
	}
}
