package cuse

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"strconv"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/foreign"
	"vhostkit/switchd/guestmem"
)

// errPrivate says what to change where a guest's memory is not shared.
var errPrivate = fmt.Errorf("the guest's memory is private to QEMU: start it with -object memory-backend-memfd,id=mem,size=…,share=on "+
	"-machine memory-backend=mem (or hugepages: memory-backend-file,…,share=on); qemu-wrap does that by itself: %w", unix.EOPNOTSUPP)

// maxPrivate is how large a private region may be that is left out: the memory of a graphics card or of a ROM, where no frames are. Larger
// ones are the guest's main memory.
const maxPrivate = 256 << 20

// found is guest memory: what the device maps. The descriptors are the finder's.
type found struct {
	specs   []guestmem.RegionSpec
	private uint64 // bytes that were left out
	files   map[fileID]int
	owner   *process
}

// errDevice says that a region is memory of a device that the guest has been given.
var errDevice = fmt.Errorf("the memory is a device's: %w", unix.EOPNOTSUPP)

// fileID is a file's identity.
type fileID struct {
	major, minor uint32
	inode        uint64
}

func (f *found) close() {
	for _, fd := range f.files {
		f.owner.memory.Files.Close(fd)
	}
}

// findMemory finds the files behind a memory table in the owner's address space. close the answer when it is mapped. A thread of the owner
// must be waiting for an answer.
func (p *process) findMemory(table []guestRegion, log *slog.Logger) (*found, error) {
	f, err := os.Open(p.path("maps"))
	if err != nil {
		return nil, p.explain(fmt.Errorf("looking at the memory of process %d: %w", p.pid, err))
	}
	all, err := parseMaps(f)
	f.Close()
	if err != nil {
		return nil, p.explain(fmt.Errorf("/proc/%d/maps: %w", p.pid, err))
	}
	result := &found{files: map[fileID]int{}, owner: p}
	maps := join(all)
	for _, r := range table {
		if err := p.findRegion(result, maps, r); err != nil {
			result.close()
			return nil, err
		}
	}
	if err := p.alive(); err != nil {
		result.close()
		return nil, err
	}
	if len(result.specs) == 0 && len(table) > 0 {
		result.close()
		return nil, errPrivate
	}
	if result.private > 0 {
		log.Debug("memory that QEMU does not share is left out", "bytes", result.private)
	}
	return result, nil
}

// findRegion appends the parts of a region: one for each file that it lies in.
func (p *process) findRegion(result *found, maps []mapping, r guestRegion) error {
	i := sort.Search(len(maps), func(i int) bool { return maps[i].End > r.UserAddr })
	for at := r.UserAddr; at < r.end(); i++ {
		if i == len(maps) || maps[i].Start > at {
			return fmt.Errorf("guest address %#x: process %d has nothing at %#x: %w", r.GuestPhysAddr+at-r.UserAddr, p.pid, at, unix.EFAULT)
		}
		m := maps[i]
		part := guestmem.RegionSpec{
			GuestPhysAddr: r.GuestPhysAddr + at - r.UserAddr, Size: min(m.End, r.end()) - at, UserAddr: at, MmapOffset: m.Offset + at - m.Start,
		}
		at += part.Size
		if !m.Shared || !m.Write || m.Inode == 0 {
			if part.GuestPhysAddr == 0 || part.Size > maxPrivate {
				return fmt.Errorf("guest addresses %#x..%#x: %w", part.GuestPhysAddr, part.GuestPhysAddr+part.Size-1, errPrivate)
			}
			result.private += part.Size
			continue
		}
		var err error
		part.FD, err = p.file(result, m)
		if errors.Is(err, errDevice) && part.GuestPhysAddr != 0 {
			result.private += part.Size
			continue
		}
		if err != nil {
			return fmt.Errorf("guest addresses %#x..%#x: %w", part.GuestPhysAddr, part.GuestPhysAddr+part.Size-1, err)
		}
		result.specs = append(result.specs, part)
	}
	return nil
}

// file gives a descriptor of a mapping's file.
func (p *process) file(result *found, m mapping) (int, error) {
	id := fileID{m.Major, m.Minor, m.Inode}
	if fd, ok := result.files[id]; ok {
		return fd, nil
	}
	fd, err := p.openFile(m)
	if err != nil {
		return -1, err
	}
	if err := p.memory.Check(fd); err != nil {
		p.memory.Files.Close(fd)
		return -1, fmt.Errorf("%s: %w: %w", m.Path, err, unix.EOPNOTSUPP)
	}
	result.files[id] = fd
	return fd, nil
}

// openFile gets the file from the process's descriptors: with one of those it can do no more than the process could. Where the process has
// closed it, the mapping itself leads to it. That way would make a file writable that the process may only read; but the mapping that
// names the file is writable and shared, which only a file opened for writing gives, and the file must be the very one.
func (p *process) openFile(m mapping) (int, error) {
	fd, err := p.descriptorOf(m)
	if fd >= 0 || err != nil {
		return fd, err
	}
	// The kernel knows mappings by their bounds before join: the first part of a joined one will do.
	all, err := os.ReadDir(p.path("map_files"))
	if err != nil {
		return -1, p.explain(fmt.Errorf("%s: QEMU has no descriptor of it open any more: %w", m.Path, err))
	}
	prefix := strconv.FormatUint(m.Start, 16) + "-"
	for _, entry := range all {
		if len(entry.Name()) < len(prefix) || entry.Name()[:len(prefix)] != prefix {
			continue
		}
		return p.openMapped(m, entry.Name())
	}
	return -1, fmt.Errorf("process %d has changed its mapping of %s meanwhile: %w", p.pid, m.Path, unix.EAGAIN)
}

// openMapped opens the file behind an entry of map_files, first without using it: opening a device would do something.
func (p *process) openMapped(m mapping, name string) (int, error) {
	fail := func(err error) (int, error) {
		return -1, fmt.Errorf("opening %s by its mapping in process %d (which takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE): %w", m.Path, p.pid,
			err)
	}
	files := p.memory.Files
	if err := files.Account().Take(budget.Descriptors, 2); err != nil {
		return -1, err
	}
	look, err := unix.Open(p.path("map_files/"+name), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		files.Account().Give(budget.Descriptors, 2)
		return fail(err)
	}
	defer files.Close(look)
	fd, err := p.openLooked(m, look)
	if err != nil {
		files.Account().Give(budget.Descriptors, 1)
	}
	switch {
	case errors.Is(err, errDevice), errors.Is(err, unix.EAGAIN), errors.Is(err, guestmem.ErrRegion):
		return -1, err
	case err != nil:
		return fail(err)
	}
	return fd, nil
}

// openLooked opens a file for use if it is memory of the right kind.
func (p *process) openLooked(m mapping, look int) (int, error) {
	same, regular := m.is(look, p.memory.Files)
	switch {
	case !same:
		return -1, fmt.Errorf("process %d has changed its mapping of %s meanwhile: %w", p.pid, m.Path, unix.EAGAIN)
	case !regular:
		return -1, errDevice
	}
	if err := p.memory.CheckPath(look); err != nil {
		return -1, fmt.Errorf("%s: %w: %w", m.Path, err, unix.EOPNOTSUPP)
	}
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", look), unix.O_RDWR|unix.O_CLOEXEC, 0)
}

// descriptorOf looks for a descriptor of the file; -1: none.
func (p *process) descriptorOf(m mapping) (int, error) {
	entries, err := os.ReadDir(p.path("fd"))
	if err != nil {
		return -1, p.explain(fmt.Errorf("looking at the descriptors of process %d: %w", p.pid, err))
	}
	for _, entry := range entries {
		link, err := os.Readlink(p.path("fd/" + entry.Name()))
		if err != nil || link != m.Path { // by name first: to look at a file asks its file system, which may be the caller's own
			continue
		}
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fd, err := p.take(number)
		if errors.Is(err, unix.EBADF) {
			continue
		}
		if err != nil {
			return -1, err
		}
		same, regular := m.is(fd, p.memory.Files)
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && flags&unix.O_ACCMODE == unix.O_RDWR && same && regular {
			return fd, nil
		}
		p.memory.Files.Close(fd)
		if same && !regular {
			return -1, errDevice
		}
	}
	return -1, nil
}

// is tells that a descriptor is of the mapping's file, and that this is a regular file.
func (m mapping) is(fd int, files *foreign.Files) (same, regular bool) {
	st, err := files.Stat(fd)
	if err != nil {
		return false, false
	}
	same = st.Ino == m.Inode && unix.Major(st.Dev) == m.Major && unix.Minor(st.Dev) == m.Minor
	return same, st.Mode&unix.S_IFMT == unix.S_IFREG
}
