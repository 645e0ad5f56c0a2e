package vhost

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// An entry of the file is a cache line, in host order: the boot id's hash, the place, and the position. It exists if the boot is this one and
// the mark is there; the mark is written last and taken away first.
const (
	entryDevice   = 16
	entryInode    = 24
	entryBirth    = 32
	entryOffset   = 40
	entrySize     = 48 // the ring's size in the lower half, the mark in the upper
	entryPosition = 56
	entryBytes    = 64

	entryMark = 0x52494e47 << 32

	// maxEntries bounds the file to 64 MiB, also if somebody made it longer.
	maxEntries = 1 << 20
)

// OpenJournal maps the file, making it if need be, with room for at least that many rings (up to maxEntries). Its space is reserved: an error
// says that the disk is full, or that another process has the journal.
func OpenJournal(path string, entries int, log *slog.Logger) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("ring journal: %w", err)
	}
	j := &Journal{log: log, file: f, index: map[place]slot{}}
	if err := j.open(entries); err != nil {
		f.Close()
		return nil, fmt.Errorf("ring journal %s: %w", path, err)
	}
	return j, nil
}

func (j *Journal) open(entries int) error {
	fd := int(j.file.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another switchd uses it: %w", err)
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	sum := sha256.Sum256(id)
	copy(j.boot[:], sum[:])
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	// A switch with more queues may have left more entries: they stay.
	length := min(max(int64(entries), info.Size()/entryBytes, 1), maxEntries) * entryBytes
	if err := reserve(j.file, info.Size(), length); err != nil {
		return fmt.Errorf("reserving %d bytes: %w", length, err)
	}
	j.data, err = unix.Mmap(fd, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	j.first, j.length = guestmem.AddressOf(j.data), len(j.data)
	if fault := guestmem.Contain(j.scan); fault != nil {
		_ = unix.Munmap(j.data)
		j.data = nil
		return errors.New("its pages cannot be read: it was truncated, or its disk fails")
	}
	return nil
}

// reserve has the file system set blocks aside for the first length bytes of the file, which has size now. If that fails the file is as long
// as it was.
func reserve(f *os.File, size, length int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, length)
	for err == unix.EINTR {
		err = unix.Fallocate(int(f.Fd()), 0, 0, length)
	}
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		err = writeThrough(f, length)
	}
	if err != nil && length > size {
		return errors.Join(err, f.Truncate(size))
	}
	return err
}

// writeThrough writes what is there, and zeros where nothing is: a file system without fallocate(2) then has blocks for it.
func writeThrough(f *os.File, length int64) error {
	b := make([]byte, 64<<10)
	for at := int64(0); at < length; at += int64(len(b)) {
		b = b[:min(int64(len(b)), length-at)]
		clear(b)
		if _, err := f.ReadAt(b, at); err != nil && err != io.EOF {
			return err
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// scan finds what the process before this one has left.
func (j *Journal) scan() {
	for i := len(j.data)/entryBytes - 1; i >= 0; i-- {
		p, ok := j.read(i)
		if _, twice := j.index[p]; ok && !twice {
			j.index[p] = slot{index: i}
			j.kept = append(j.kept, j.entry(i, p))
			continue
		}
		if ok {
			j.clear(i)
		}
		j.unused = append(j.unused, int32(i))
	}
}

func (j *Journal) slot(i int) guestmem.Ptr { return guestmem.AddressOf(j.data[i*entryBytes:]) }

func (j *Journal) entry(i int, p place) entry {
	return entry{index: i, at: j.slot(i) + entryPosition, place: p}
}

// read gives the place of an entry, if there is one of this boot.
func (j *Journal) read(i int) (p place, ok bool) {
	at := j.slot(i)
	word := (at + entrySize).LoadU64()
	size := uint32(word)
	if word>>32<<32 != entryMark || size == 0 || size > virtio.MaxQueueSize || string(at.Bytes(len(j.boot))) != string(j.boot[:]) {
		return place{}, false
	}
	return place{
		device: (at + entryDevice).LoadU64(), inode: (at + entryInode).LoadU64(), birth: (at + entryBirth).LoadU64(),
		offset: (at + entryOffset).LoadU64(), size: size,
	}, true
}

// write makes an entry without a position.
func (j *Journal) write(i int, p place) {
	j.clear(i)
	at := j.slot(i)
	copy(at.Bytes(len(j.boot)), j.boot[:])
	(at + entryDevice).StoreU64(p.device)
	(at + entryInode).StoreU64(p.inode)
	(at + entryBirth).StoreU64(p.birth)
	(at + entryOffset).StoreU64(p.offset)
	(at + entryPosition).StoreReleaseU64(0)
	(at + entrySize).StoreReleaseU64(uint64(p.size) | entryMark)
}

func (j *Journal) clear(i int) { (j.slot(i) + entrySize).StoreReleaseU64(0) }

// Close unmaps the file. No queue may store into it any more; entries that are still claimed are kept.
func (j *Journal) Close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.data != nil {
		_ = unix.Munmap(j.data)
		j.data = nil
		j.file.Close()
	}
}
