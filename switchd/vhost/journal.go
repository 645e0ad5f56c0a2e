package vhost

import (
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// Journal remembers where the packed rings stand, so that a switch that was killed finds its place again. A split ring says so itself
// (used.idx), a packed ring does not: the front-end gives back the position at which the ring was last started, which is of no use, and no
// guest would ever see another frame.
//
// It is a file that is mapped: what was stored is in the file even if the process is killed. An entry is {place, position}; it exists while
// its ring runs, and is kept when the switch itself stops. The file's blocks are reserved at the start. Should a page be lost all the same
// (somebody truncates the file, the disk fails), the mapping is replaced by memory that nobody else can take away: workers go on storing,
// and nothing is remembered any more. The zero value and nil remember nothing.
type Journal struct {
	log  *slog.Logger
	file *os.File // locked: one process at a time
	boot [16]byte // entries of an earlier boot never match

	// The mapping, which workers store positions into: set once.
	first  guestmem.Ptr
	length int

	mu     sync.Mutex // never taken by a worker
	data   []byte     // the mapping; nil: closed, or never opened
	index  map[place]slot
	unused []int32 // entries that nobody has
	kept   []entry // of the process before; first to be given up when there are no unused ones

	replacing sync.Mutex // only around one mmap(2), so that workers can take it
	lost      atomic.Bool
}

// place identifies a ring: the file that its descriptors lie in, where in it, and how many there are.
type place struct {
	device, inode, birth, offset uint64
	size                         uint32
}

// slot is an entry that exists. live: a ring of this process has it.
type slot struct {
	index int
	live  bool
}

// entry is a claimed place in the journal.
type entry struct {
	index int
	at    guestmem.Ptr // where the queue stores its position; 0: not journaled
	place place
}

// noEntry is the entry of a ring that is not journaled.
var noEntry = entry{index: -1}

// claim gives the entry of a ring, whose descriptors lie at that offset of the region's file, and the position that a process before this
// one left, or 0.
func (j *Journal) claim(region guestmem.Region, offset uint64, size uint32) (entry, uint64) {
	if j == nil || j.lost.Load() {
		return noEntry, 0
	}
	p := place{device: region.Device, inode: region.Inode, birth: region.Birth, offset: offset, size: size}
	e, position := noEntry, uint64(0)
	j.contain(func() { e, position = j.take(p) })
	if j.lost.Load() {
		return noEntry, 0
	}
	return e, position
}

func (j *Journal) take(p place) (entry, uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s, ok := j.index[p]
	if j.data == nil || ok && s.live {
		return noEntry, 0 // two rings in one place: a hostile front-end's own problem
	}
	if ok {
		j.index[p] = slot{s.index, true}
		e := j.entry(s.index, p)
		return e, e.at.LoadU64()
	}
	i := j.free()
	if i < 0 {
		return noEntry, 0
	}
	j.write(i, p)
	j.index[p] = slot{i, true}
	return j.entry(i, p), 0
}

// free gives an unused entry, or else one that is only remembered; -1: all have rings.
func (j *Journal) free() int {
	if n := len(j.unused); n > 0 {
		i := j.unused[n-1]
		j.unused = j.unused[:n-1]
		return int(i)
	}
	for len(j.kept) > 0 {
		e := j.kept[0]
		j.kept = j.kept[1:]
		if s, ok := j.index[e.place]; ok && !s.live && s.index == e.index {
			delete(j.index, e.place)
			return e.index
		}
	}
	return -1
}

// release gives an entry back; keep leaves it for the next process.
func (j *Journal) release(e entry, keep bool) {
	if j == nil || e.index < 0 || j.lost.Load() {
		return
	}
	j.contain(func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.data == nil {
			return
		}
		if keep {
			j.index[e.place] = slot{e.index, false}
			j.kept = append(j.kept, e)
			return
		}
		delete(j.index, e.place)
		j.clear(e.index)
		j.unused = append(j.unused, int32(e.index))
	})
}

// contain runs f; a fault in the mapping is the end of remembering, and of nothing else.
func (j *Journal) contain(f func()) {
	if fault := guestmem.Contain(f); fault != nil && !j.Replace(fault.Addr) {
		panic(fault) // not in the mapping: a bug of ours
	}
}

// Replace tells whether a fault at this address was one of the journal's, which is nobody's fault. If so, the whole mapping is anonymous memory
// when it returns: the kernel exchanges it at once, so workers may be storing into it meanwhile. The log says so once. It never waits for
// the file, so a worker may call it. A nil Journal has no addresses.
func (j *Journal) Replace(at guestmem.Ptr) bool {
	if j == nil || at < j.first || at >= j.first+guestmem.Ptr(j.length) {
		return false
	}
	j.replacing.Lock()
	defer j.replacing.Unlock()
	if j.lost.Load() {
		return true
	}
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, uintptr(j.first), uintptr(j.length), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_FIXED|unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	if errno != 0 {
		return false
	}
	j.lost.Store(true)
	// The log may block, its caller must not.
	go j.log.Warn("guests with packed rings will not survive a restart of the switch: the journal lost its file; restart the switch when"+
		" the guests are down", "file", j.file.Name(), "cause", "it was truncated, or its disk failed or is full")
	return true
}
