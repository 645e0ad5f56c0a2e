package guestmem

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/foreign"
)

// Mapper maps guests' memory. The zero value does it without bounds.
//
// Whoever touches a page that is not there waits until it is: a worker, and at the next collection of garbage everything. So only memory of
// which nobody can withhold a page is mapped: memfds, tmpfs and hugetlbfs. Any other file has pages that come from a disk, over a network,
// or from a process of the front-end's own choice.
type Mapper struct {
	// Files ask file systems what they are, and their account has all mappings counted; nil: nothing is counted.
	Files *foreign.Files
	// AnyFile maps files of other file systems, too: a slow disk or a server that is away then stops the whole switch. Those that are
	// served by processes (FUSE), or may have one underneath (overlay), are refused all the same.
	AnyFile bool
}

// region maps whole pages of the file around the region. hugetlbfs wants offset and length in its own page size, which fstat(2) reports
// as the block size.
func (mp Mapper) region(s RegionSpec) (Region, error) {
	if err := mp.Check(s.FD); err != nil {
		return Region{}, err
	}
	st, err := mp.Files.Stat(s.FD)
	if err != nil {
		return Region{}, fmt.Errorf("%w: fstat of the memory's descriptor: %w", ErrRegion, err)
	}
	end := s.MmapOffset + s.Size
	if st.Mode&unix.S_IFMT == unix.S_IFREG && uint64(st.Size) < end {
		return Region{}, fmt.Errorf("%w: the file has %d bytes, the region needs %d; was it truncated?", ErrRegion, st.Size, end)
	}
	page := uint64(os.Getpagesize())
	if b := uint64(st.Blksize); b > page && b&(b-1) == 0 {
		page = b
	}
	first := s.MmapOffset &^ (page - 1)
	length := (end - first + page - 1) &^ (page - 1)
	m, err := mp.mmap(s.FD, first, length, s.Size)
	if err != nil {
		return Region{}, err
	}
	born := uint64(0)
	if foreign.IsMemory(s.FD) { // nothing else is asked: it may not answer
		m.residency, born = residencyOf(s.FD, &st), birth(s.FD)
	}
	return Region{
		GuestPhysAddr: s.GuestPhysAddr, Size: s.Size, UserAddr: s.UserAddr, MmapOffset: s.MmapOffset,
		Host:   AddressOf(m.data) + Ptr(s.MmapOffset-first),
		Device: st.Dev, Inode: st.Ino, Birth: born, mapping: m,
	}, nil
}

// mmap counts a mapping, then makes it. The system calls are made directly: x/sys/unix keeps its mappings in a table whose lock is held over
// munmap(2), and a munmap of a large guest takes long.
func (mp Mapper) mmap(fd int, offset, length, guest uint64) (*mapping, error) {
	m := &mapping{guest: guest, account: mp.Files.Account()}
	if err := m.count(length); err != nil {
		return nil, fmt.Errorf("mapping %d bytes of guest memory: %w", guest, err)
	}
	at, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, uintptr(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE,
		uintptr(fd), uintptr(offset))
	if errno != 0 {
		m.giveBack(length)
		return nil, fmt.Errorf("%w: mmap of %d bytes at offset %#x: %w", ErrRegion, length, offset, errno)
	}
	// A core dump of the switch must not contain its guests' memory. Failing is harmless. It is one entry of the memory map all the same:
	// advice for all of a mapping does not split it.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, at, uintptr(length), unix.MADV_DONTDUMP)
	m.data = Ptr(at).Bytes(int(length))
	m.refs.Store(1)
	return m, nil
}

// unmapping is held in munmap(2), which takes milliseconds for a large guest. When many guests stop together, they shall not take all processors of
// the runtime at once: a worker that wakes up needs one.
var unmapping sync.Mutex

// release gives up a hold on the mapping; the last one unmaps it.
func (m *mapping) release() {
	if m.refs.Add(-1) > 0 {
		return
	}
	unmapping.Lock()
	defer unmapping.Unlock()
	length := uint64(len(m.data))
	// It cannot fail but for a mapping that the kernel had joined with another one of the same file and would have to split, while the
	// process has as many as it may. The budget keeps well below that; where it happened the memory would stay, and stay counted.
	if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(AddressOf(m.data)), uintptr(length), 0); errno == 0 {
		m.giveBack(length)
	}
}

// count takes what a mapping costs: all or nothing.
func (m *mapping) count(length uint64) error {
	costs := m.costs(length)
	for i, c := range costs {
		if err := m.account.Take(c.resource, c.n); err != nil {
			for _, taken := range costs[:i] {
				m.account.Give(taken.resource, taken.n)
			}
			return err
		}
	}
	return nil
}

func (m *mapping) giveBack(length uint64) {
	for _, c := range m.costs(length) {
		m.account.Give(c.resource, c.n)
	}
}

type cost struct {
	resource budget.Resource
	n        uint64
}

func (m *mapping) costs(length uint64) []cost {
	return []cost{{budget.Mappings, 1}, {budget.AddressSpace, length}, {budget.GuestMemory, m.guest}}
}

// Check tells whether memory in a file may be mapped: nil, or an error that wraps ErrRegion and names the file system. A file system that
// does not answer is refused after a second.
func (mp Mapper) Check(fd int) error {
	if foreign.IsMemory(fd) {
		return nil
	}
	kind, err := mp.Files.FileSystem(fd)
	if err != nil {
		return fmt.Errorf("%w: asking what file system the memory's file is on: %w", ErrRegion, err)
	}
	return mp.judge(kind)
}

// CheckPath is Check for a descriptor that was opened with O_PATH, before the file is opened to use it.
func (mp Mapper) CheckPath(fd int) error {
	kind, err := mp.Files.FileSystem(fd)
	if err != nil {
		return fmt.Errorf("%w: asking what file system the memory's file is on: %w", ErrRegion, err)
	}
	if kind == unix.TMPFS_MAGIC || kind == unix.HUGETLBFS_MAGIC {
		return nil
	}
	return mp.judge(kind)
}

func (mp Mapper) judge(kind int64) error {
	name := fileSystemName(kind)
	switch {
	case kind == unix.FUSE_SUPER_MAGIC || kind == unix.OVERLAYFS_SUPER_MAGIC:
		return fmt.Errorf("%w: the file is on %s, where a process of the front-end's may withhold a page for ever; %s", ErrRegion, name, wanted)
	case !mp.AnyFile:
		return fmt.Errorf("%w: the file is on %s, whose pages may keep the whole switch waiting; %s (or start switchd with "+
			"--unsafe-memory-files 1, and take that risk)", ErrRegion, name, wanted)
	}
	return nil
}

// wanted says what to use.
const wanted = "guest memory has to be a memfd, or a file on hugetlbfs or tmpfs (/dev/shm): memory-backend-memfd,share=on"

// fileSystems are names of what fstatfs(2) tells (statfs(2)).
var fileSystems = map[int64]string{
	unix.FUSE_SUPER_MAGIC: "FUSE", unix.OVERLAYFS_SUPER_MAGIC: "an overlay, which may lie on FUSE", unix.EXT4_SUPER_MAGIC: "ext4",
	unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.NFS_SUPER_MAGIC: "NFS", unix.CEPH_SUPER_MAGIC: "Ceph",
	unix.V9FS_MAGIC: "9p", unix.F2FS_SUPER_MAGIC: "f2fs", unix.TMPFS_MAGIC: "a device node", unix.ANON_INODE_FS_MAGIC: "no file system",
	unix.SOCKFS_MAGIC: "no file system (a socket)", unix.PIPEFS_MAGIC: "no file system (a pipe)", unix.RAMFS_MAGIC: "ramfs",
	unix.SECRETMEM_MAGIC: "secret memory", unix.DMA_BUF_MAGIC: "no file system (a DMA buffer)",
}

func fileSystemName(kind int64) string {
	if name, ok := fileSystems[kind]; ok {
		return name
	}
	return fmt.Sprintf("a file system of type %#x", kind)
}
