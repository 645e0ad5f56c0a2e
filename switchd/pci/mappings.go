package pci

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// mappings is memory of this process that a device has been given, at addresses of our choice.
type mappings struct {
	mu     sync.Mutex // first, others, and changes of next; not held while the kernel maps
	pieces []piece
	next   uint64 // IOVA of the next piece
	first  uint64 // of the first one that there was
	others space
}

type piece struct {
	DMA
	data []byte
	fd   int
}

// region finds an address for memory of others and gives it to the device there, for reading.
func (m *mappings) region(r Region, give func(p guestmem.Ptr, iova, bytes uint64, fd int, offset uint64) error) (uint64, error) {
	m.mu.Lock()
	iova, err := m.others.take(uint64(r.Addr), r.Size, m.base())
	m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if err := give(r.Addr, iova, r.Size, r.FD, r.Offset); err != nil {
		m.vacate(iova, r.Size)
		return 0, err
	}
	return iova, nil
}

// vacate takes an address of others' memory back.
func (m *mappings) vacate(iova, size uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.others.give(iova, size)
}

// base is the lowest address of our own memory.
func (m *mappings) base() uint64 {
	if m.first == 0 {
		return m.next
	}
	return m.first
}

// hugepage is what memory for a device is rounded up to from half of it on: fewer entries in the IOMMU, and in the processor's.
const hugepage = 2 << 20

// alloc gets memory that can be shared by its file, and gives it to the device.
func (m *mappings) alloc(bytes int, give func(p guestmem.Ptr, iova, bytes uint64, fd int, offset uint64) error) (DMA, error) {
	unit := 4096
	if bytes >= hugepage/2 {
		unit = hugepage
	}
	bytes = (bytes + unit - 1) / unit * unit
	fd, data, err := shared(bytes)
	if err != nil {
		return DMA{}, fmt.Errorf("allocate %d bytes for a device: %w", bytes, err)
	}
	d := DMA{Addr: guestmem.AddressOf(data), IOVA: m.next, Size: bytes} // changed by nobody else
	if err := give(d.Addr, d.IOVA, uint64(bytes), fd, 0); err != nil {
		return DMA{}, errors.Join(err, unix.Munmap(data), unix.Close(fd))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first == 0 {
		m.first = m.next
	}
	m.next += uint64(bytes+hugepage-1) / hugepage * hugepage
	m.pieces = append(m.pieces, piece{d, data, fd})
	return d, nil
}

// shared gets memory from hugepages, if there are any left.
func shared(bytes int) (fd int, data []byte, err error) {
	flags := []int{unix.MFD_CLOEXEC}
	if bytes%hugepage == 0 {
		flags = []int{unix.MFD_CLOEXEC | unix.MFD_HUGETLB, unix.MFD_CLOEXEC}
	}
	for _, f := range flags {
		if fd, err = unix.MemfdCreate("switchd-dma", f); err != nil {
			continue
		}
		if err = unix.Ftruncate(fd, int64(bytes)); err == nil {
			data, err = unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		}
		if err == nil {
			return fd, data, nil
		}
		_ = unix.Close(fd)
	}
	return -1, nil, err
}

func (m *mappings) free(d DMA, take func(iova, bytes uint64) error) error {
	for i, p := range m.pieces {
		if p.DMA == d {
			m.pieces = append(m.pieces[:i], m.pieces[i+1:]...)
			return errors.Join(take(d.IOVA, uint64(d.Size)), unix.Munmap(p.data), unix.Close(p.fd))
		}
	}
	return fmt.Errorf("give back %d bytes at %#x: they were not allocated here", d.Size, d.IOVA)
}

func (m *mappings) freeAll(take func(iova, bytes uint64) error) (err error) {
	for len(m.pieces) > 0 {
		err = errors.Join(err, m.free(m.pieces[len(m.pieces)-1].DMA, take))
	}
	return err
}
