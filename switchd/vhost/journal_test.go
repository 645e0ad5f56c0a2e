package vhost

import (
	"encoding/binary"
	"path/filepath"
	"testing"

	"vhostkit/switchd/guestmem"
)

func openJournal(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// TestJournal: a position is there for the next process if the ring was kept, and gone if it was not.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	region := guestmem.Region{Device: 1, Inode: 2}
	store := func(j *Journal, e entry, v uint64) {
		binary.LittleEndian.PutUint64(j.data[e.index*journalEntry+journalKey:], v)
	}
	j := openJournal(t, path)
	if _, err := OpenJournal(path); err == nil {
		t.Error("two processes share a journal")
	}
	kept, place := j.claim(region, 0, 256)
	gone, _ := j.claim(region, 4096, 256)
	if kept.index < 0 || gone.index < 0 || kept.index == gone.index || place != 0 {
		t.Fatalf("entries %+v and %+v, position %d", kept, gone, place)
	}
	if twice, _ := j.claim(region, 0, 256); twice.index >= 0 {
		t.Error("two rings claimed one entry")
	}
	store(j, kept, 71)
	store(j, gone, 72)
	j.release(kept, true)
	j.release(gone, false)
	j.Close()

	j = openJournal(t, path)
	defer j.Close()
	for _, k := range []struct {
		name   string
		region guestmem.Region
		offset uint64
		size   uint32
		want   uint64
	}{
		{"another size", region, 0, 512, 0},
		{"another file", guestmem.Region{Device: 1, Inode: 3}, 0, 256, 0},
		{"released", region, 4096, 256, 0},
		{"kept", region, 0, 256, 71},
	} {
		if e, got := j.claim(k.region, k.offset, k.size); e.index < 0 || got != k.want {
			t.Errorf("%s: entry %+v, position %d, want %d", k.name, e, got, k.want)
		}
	}
}

// TestFullJournal: rings beyond its size run without it; places that are only remembered make room.
func TestFullJournal(t *testing.T) {
	j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
	defer j.Close()
	last, _ := j.claim(guestmem.Region{Inode: 1}, 0, 8)
	if last.index < 0 {
		t.Fatal("no entry in an empty journal")
	}
	for i := range j.live {
		j.live[i] = true
	}
	if e, _ := j.claim(guestmem.Region{Inode: 2}, 0, 8); e.index >= 0 {
		t.Error("an entry in use was given away")
	}
	j.release(last, true)
	if e, place := j.claim(guestmem.Region{Inode: 2}, 0, 8); e.index != last.index || place != 0 {
		t.Errorf("entry %+v, position %d, want entry %d", e, place, last.index)
	}
}

// TestNoJournal: without a journal nothing is remembered, and nothing breaks.
func TestNoJournal(t *testing.T) {
	var j *Journal
	e, place := j.claim(guestmem.Region{Inode: 1}, 0, 8)
	if e.index >= 0 || e.at != 0 || place != 0 {
		t.Errorf("entry %+v, position %d", e, place)
	}
	j.release(e, true)
}
