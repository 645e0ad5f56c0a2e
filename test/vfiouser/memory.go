package vfiouser

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNotMapped says that the device went to an address that the client has not given it.
var ErrNotMapped = errors.New("no memory mapped for the device there")

// Memory is what the client has given the device, by the addresses that the device uses. It can be used while the client changes it: an access
// under way may still reach what was just taken away, as with a real device.
type Memory struct {
	mu    sync.RWMutex
	areas []area // by address; they do not overlap
	files map[fileID]*file
}

type area struct {
	iova, size uint64
	file       *file // nil: the client keeps it to itself
	offset     uint64
	write      bool
}

func (a area) end() uint64 { return a.iova + a.size }

// fileID tells files apart, whatever descriptor they come by.
type fileID struct{ device, inode uint64 }

// file is mapped once as a whole, and stays mapped as long as the client is there: clients map and unmap pieces of one file all the time.
type file struct {
	data []byte
}

// Limits of what a client may map.
const (
	maxAreas = 1 << 17
	maxFiles = 512
)

// Map gives the device an area. fd is the file behind it, or -1; it stays the caller's.
func (m *Memory) Map(iova, size, offset uint64, write bool, fd int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size == 0 || iova+size < iova || offset+size < offset {
		return fmt.Errorf("%w: DMA_MAP of %d bytes at %#x", ErrProtocol, size, iova)
	}
	at, overlaps := m.find(iova, size)
	if overlaps {
		return fmt.Errorf("DMA_MAP of %d bytes at %#x: a part is mapped already: %w", size, iova, unix.EEXIST)
	}
	if len(m.areas) >= maxAreas {
		return fmt.Errorf("DMA_MAP: more than %d areas: %w", maxAreas, unix.ENOSPC)
	}
	a := area{iova: iova, size: size, offset: offset, write: write}
	if fd >= 0 {
		f, err := m.file(fd)
		if err != nil {
			return err
		}
		if offset+size > uint64(len(f.data)) {
			return fmt.Errorf("DMA_MAP of bytes %d to %d of a file that has %d: %w", offset, offset+size, len(f.data), unix.EINVAL)
		}
		a.file = f
	}
	m.areas = slices.Insert(m.areas, at, a)
	return nil
}

// find gives the place of an area among the others, and whether one of them is in its way.
func (m *Memory) find(iova, size uint64) (at int, overlaps bool) {
	at, _ = slices.BinarySearchFunc(m.areas, iova, func(a area, iova uint64) int { return cmp.Compare(a.end(), iova+1) })
	return at, at < len(m.areas) && m.areas[at].iova < iova+size
}

func (m *Memory) file(fd int) (*file, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("DMA_MAP: look at the file: %w", err)
	}
	id := fileID{st.Dev, st.Ino}
	if f := m.files[id]; f != nil && int64(len(f.data)) == st.Size {
		return f, nil
	}
	if len(m.files) >= maxFiles {
		return nil, fmt.Errorf("DMA_MAP: more than %d files: %w", maxFiles, unix.ENOSPC)
	}
	if st.Size <= 0 || st.Size > 1<<46 {
		return nil, fmt.Errorf("DMA_MAP: a file of %d bytes: %w", st.Size, unix.EINVAL)
	}
	data, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("DMA_MAP: map %d bytes of the client's file: %w", st.Size, err)
	}
	f := &file{data}
	if m.files == nil {
		m.files = map[fileID]*file{}
	}
	if old := m.files[id]; old != nil { // it has grown; areas of the old mapping go on using that
		id = fileID{st.Dev, ^st.Ino - uint64(len(m.files))}
	}
	m.files[id] = f
	return f, nil
}

// Unmap takes the areas within a range away. It is an error if there are none, or if one reaches out of the range.
func (m *Memory) Unmap(iova, size uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if iova+size < iova {
		return fmt.Errorf("%w: DMA_UNMAP of %d bytes at %#x", ErrProtocol, size, iova)
	}
	from, _ := m.find(iova, size)
	to := from
	for to < len(m.areas) && m.areas[to].iova < iova+size {
		if a := m.areas[to]; a.iova < iova || a.end() > iova+size {
			return fmt.Errorf("DMA_UNMAP of %d bytes at %#x: the area at %#x has %d bytes: %w", size, iova, a.iova, a.size, unix.EINVAL)
		}
		to++
	}
	if from == to {
		return fmt.Errorf("DMA_UNMAP of %d bytes at %#x: nothing is mapped there: %w", size, iova, unix.ENOENT)
	}
	m.areas = slices.Delete(m.areas, from, to)
	return nil
}

// UnmapAll takes everything away.
func (m *Memory) UnmapAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.areas = nil
}

// close unmaps the files. Nobody may use the memory any more.
func (m *Memory) close() {
	m.UnmapAll()
	for _, f := range m.files {
		_ = unix.Munmap(f.data)
	}
	m.files = nil
}

// Translate gives the memory behind [iova, iova+size), which must lie in one piece in the client's file.
func (m *Memory) Translate(iova, size uint64, write bool) ([]byte, error) {
	piece, err := m.piece(iova, size, write)
	if err == nil && uint64(len(piece)) < size {
		err = fmt.Errorf("%d bytes at %#x: they are in two pieces", size, iova)
	}
	return piece, err
}

// ReadDMA copies from the device's address into p, over as many areas as it takes.
func (m *Memory) ReadDMA(iova uint64, p []byte) error {
	for len(p) > 0 {
		piece, err := m.piece(iova, uint64(len(p)), false)
		if err != nil {
			return err
		}
		n := copy(p, piece)
		p, iova = p[n:], iova+uint64(n)
	}
	return nil
}

// WriteDMA copies p to the device's address.
func (m *Memory) WriteDMA(iova uint64, p []byte) error {
	for len(p) > 0 {
		piece, err := m.piece(iova, uint64(len(p)), true)
		if err != nil {
			return err
		}
		n := copy(piece, p)
		p, iova = p[n:], iova+uint64(n)
	}
	return nil
}

// piece gives at most size bytes from iova on: what lies in one piece, at least one byte.
func (m *Memory) piece(iova, size uint64, write bool) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	at, found := m.find(iova, 1)
	if !found {
		return nil, fmt.Errorf("%w: %#x", ErrNotMapped, iova)
	}
	a := m.areas[at]
	switch {
	case a.file == nil:
		return nil, fmt.Errorf("%w: the client keeps %#x to itself", ErrNotMapped, iova)
	case write && !a.write:
		return nil, fmt.Errorf("%w: %#x may not be written", ErrNotMapped, iova)
	}
	from := a.offset + (iova - a.iova)
	end := a.offset + a.size
	for at++; end-from < size && at < len(m.areas); at++ { // neighbours that are neighbours in the file too
		if n := m.areas[at]; n.iova != a.end() || n.file != a.file || n.offset != end || write && !n.write {
			break
		}
		a = m.areas[at]
		end += a.size
	}
	return a.file.data[from:min(end, from+size):min(end, from+size)], nil
}
