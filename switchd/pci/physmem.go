package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// dmaPool is memory for a device that writes to physical addresses: hugepages of one file, which the kernel does not move.
//
// When a process is killed, the kernel takes its mappings away before its files, and with them memory that nothing else holds. That would be
// before /dev/uioN is given back (see claim), with the card still writing. So the file's descriptor also lies in a socket of ours that nobody
// reads. The kernel drops it when it has dropped the socket, in a second round, after everything that was a descriptor of this process.
type dmaPool struct {
	file   int // -1: none yet
	socket int
	size   int64
	pieces []hugePiece
}

type hugePiece struct {
	DMA
	data   []byte
	offset int64
}

func (h *dmaPool) open() error {
	file, err := unix.MemfdCreate("switchd-dma", unix.MFD_CLOEXEC|unix.MFD_HUGETLB|unix.MFD_HUGE_2MB)
	if err != nil {
		return fmt.Errorf("make a file of hugepages of 2 MiB: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errors.Join(fmt.Errorf("make a socket that holds the memory for a card: %w", err), unix.Close(file))
	}
	err = unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(file), nil, 0)
	if err != nil {
		err = fmt.Errorf("put the memory for a card into a socket: %w", err)
		return errors.Join(err, unix.Close(pair[0]), unix.Close(pair[1]), unix.Close(file))
	}
	h.file, h.socket = file, pair[1]
	return unix.Close(pair[0])
}

// take gets a hugepage; place tells its physical address.
func (h *dmaPool) take(place func(virtual uint64) (uint64, error)) (DMA, error) {
	if h.file < 0 {
		if err := h.open(); err != nil {
			return DMA{}, err
		}
	}
	if err := unix.Ftruncate(h.file, h.size+hugepage); err != nil {
		return DMA{}, err
	}
	data, err := unix.Mmap(h.file, h.size, hugepage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return DMA{}, err
	}
	p := hugePiece{DMA{Addr: guestmem.AddressOf(data), Size: hugepage}, data, h.size}
	if err = unix.Mlock(data); err == nil {
		p.IOVA, err = place(uint64(p.Addr))
	}
	if err != nil {
		return DMA{}, errors.Join(err, h.drop(p))
	}
	h.size += hugepage
	h.pieces = append(h.pieces, p)
	return p.DMA, nil
}

// drop gives a page back to the kernel: unmapped it would still be the file's.
func (h *dmaPool) drop(p hugePiece) error {
	return errors.Join(unix.Munmap(p.data), unix.Fallocate(h.file, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, p.offset, hugepage))
}

func (h *dmaPool) give(d DMA) error {
	for i, p := range h.pieces {
		if p.DMA == d {
			h.pieces = append(h.pieces[:i], h.pieces[i+1:]...)
			return h.drop(p)
		}
	}
	return fmt.Errorf("give back %d bytes at %#x: they were not allocated here", d.Size, d.IOVA)
}

// close gives all of it back. The device must not reach it any more.
func (h *dmaPool) close() (err error) {
	for _, p := range h.pieces {
		err = errors.Join(err, unix.Munmap(p.data))
	}
	h.pieces = nil
	closeAll(&h.socket, &h.file)
	return err
}

// physicalAddress asks the kernel's page map (Documentation/admin-guide/mm/pagemap).
func (h Host) physicalAddress(virtual uint64) (uint64, error) {
	name := filepath.Join(h.Proc, "self/pagemap")
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := uint64(os.Getpagesize())
	var entry [8]byte
	if _, err := f.ReadAt(entry[:], int64(virtual/page*8)); err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	const present, frame = 1 << 63, 1<<55 - 1
	e := binary.LittleEndian.Uint64(entry[:])
	if e&present == 0 || e&frame == 0 {
		return 0, fmt.Errorf("read %s: %w: the kernel tells physical addresses to root only (CAP_SYS_ADMIN)", name, unix.EPERM)
	}
	return e&frame*page + virtual%page, nil
}
