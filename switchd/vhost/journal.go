package vhost

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// Journal remembers where the packed rings stand, so that a switch that was killed finds its place again. A split ring says so itself
// (used.idx), a packed ring does not: the front-end gives back the position at which the ring was last started, which is of no use, and no
// guest would ever see another frame.
//
// It is a file that is mapped: what was stored is in the file even if the process is killed. An entry is {key, position}; it exists
// while its ring runs, and is kept when the switch itself stops. The zero value remembers nothing.
type Journal struct {
	mu   sync.Mutex
	file *os.File // locked: one process at a time
	data []byte
	live []bool   // claimed by a ring of this process
	boot [16]byte // entries of an earlier boot never match
}

const (
	journalEntries = 8192
	journalEntry   = 32 // 16 bytes key, 8 bytes position, 8 unused
	journalKey     = 16
)

// OpenJournal maps the file, making it if need be.
func OpenJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("ring journal: %w", err)
	}
	j := &Journal{file: f, live: make([]bool, journalEntries)}
	if err := j.open(path); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

func (j *Journal) open(path string) error {
	f := j.file
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("ring journal %s: another switchd uses it: %w", path, err)
	}
	if err := f.Truncate(journalEntries * journalEntry); err != nil {
		return fmt.Errorf("ring journal %s: %w", path, err)
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("ring journal: %w", err)
	}
	sum := sha256.Sum256(id)
	copy(j.boot[:], sum[:])
	j.data, err = unix.Mmap(int(f.Fd()), 0, journalEntries*journalEntry, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("ring journal %s: mmap: %w", path, err)
	}
	return nil
}

// Close unmaps the file. No ring may use it any more.
func (j *Journal) Close() {
	if j.data != nil {
		_ = unix.Munmap(j.data)
		j.data = nil
		j.file.Close()
	}
}

// entry is a claimed place in the journal.
type entry struct {
	index int
	at    guestmem.Ptr // where the queue stores its position; 0: not journaled
}

// claim gives the entry of a ring, identified by the file that its descriptors lie in and their place there, and the position that a
// process before this one left, or 0.
func (j *Journal) claim(region guestmem.Region, offset uint64, size uint32) (entry, uint64) {
	if j == nil || j.data == nil {
		return entry{index: -1}, 0
	}
	var b [40]byte
	copy(b[:], j.boot[:])
	binary.LittleEndian.PutUint64(b[16:], region.Device<<32^region.Inode)
	binary.LittleEndian.PutUint64(b[24:], offset)
	binary.LittleEndian.PutUint32(b[32:], size)
	key := sha256.Sum256(b[:])
	j.mu.Lock()
	defer j.mu.Unlock()
	free := -1
	for i := range j.live {
		e := j.data[i*journalEntry:][:journalEntry]
		switch {
		case string(e[:journalKey]) == string(key[:journalKey]):
			if j.live[i] {
				return entry{index: -1}, 0 // two rings in one place: a hostile front-end's own problem
			}
			j.live[i] = true
			return j.at(i), binary.LittleEndian.Uint64(e[journalKey:])
		case !j.live[i] && (free < 0 || e[0] == 0 && j.data[free*journalEntry] != 0):
			free = i
		}
	}
	if free < 0 {
		return entry{index: -1}, 0
	}
	e := j.data[free*journalEntry:][:journalEntry]
	clear(e)
	copy(e, key[:journalKey])
	j.live[free] = true
	return j.at(free), 0
}

func (j *Journal) at(i int) entry {
	return entry{index: i, at: guestmem.AddressOf(j.data[i*journalEntry+journalKey:])}
}

// release gives an entry back; keep leaves it for the next process.
func (j *Journal) release(e entry, keep bool) {
	if j == nil || e.index < 0 || j.data == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.live[e.index] = false
	if !keep {
		clear(j.data[e.index*journalEntry:][:journalEntry])
	}
}
