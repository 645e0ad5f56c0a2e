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

// physical is a device without an IOMMU in between: registers by its resource file below /sys, memory by its physical address.
type physical struct {
	host      Host
	address   string
	config    *os.File
	registers []*window
	pieces    []piece
}

func (h Host) openPhysical(address string) (Device, error) {
	name := filepath.Join(h.device(address), "config")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w: access without VFIO needs root", name, err)
	}
	// Without a driver the kernel may have left the device disabled.
	_ = os.WriteFile(filepath.Join(h.device(address), "enable"), []byte("1"), 0o200)
	p := &physical{host: h, address: address, config: f}
	if err := enableBusMaster(p); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return p, nil
}

func (p *physical) Address() string { return p.address }
func (p *physical) Access() string  { return "sysfs" }

func (p *physical) region() regionInfo { return regionInfo{size: 4096} }

func (p *physical) ReadConfig(offset, size int) (uint32, error) {
	return readAt(int(p.config.Fd()), p.region(), p.address, offset, size)
}

func (p *physical) WriteConfig(offset, size int, value uint32) error {
	return writeAt(int(p.config.Fd()), p.region(), p.address, offset, size, value)
}

func (p *physical) BAR(index int) (Registers, error) {
	name := filepath.Join(p.host.device(p.address), fmt.Sprintf("resource%d", index))
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return nil, fmt.Errorf("map BAR %d of %s: %w", index, p.address, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map BAR %d of %s, %d bytes: %w: a kernel that is locked down (secure boot) does not allow it", index, p.address, info.Size(), err)
	}
	w := &window{data: data, base: guestmem.AddressOf(data)}
	p.registers = append(p.registers, w)
	return w, nil
}

// AllocDMA takes a hugepage for each piece: memory that the kernel does not move, and that is in one piece.
func (p *physical) AllocDMA(bytes int) (DMA, error) {
	if bytes > hugepage {
		return DMA{}, fmt.Errorf("allocate %d bytes for %s: %w: without an IOMMU a piece has at most %d", bytes, p.address, ErrUnsupported, hugepage)
	}
	data, err := unix.Mmap(-1, 0, hugepage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_SHARED|unix.MAP_HUGETLB|unix.MAP_POPULATE|21<<26)
	if err == nil {
		err = unix.Mlock(data)
	}
	if err != nil {
		return DMA{}, fmt.Errorf("allocate a hugepage of 2 MiB for %s: %w (vhostctl provision-hugepages)", p.address, err)
	}
	d := DMA{Addr: guestmem.AddressOf(data), Size: hugepage}
	if d.IOVA, err = p.host.physicalAddress(uint64(d.Addr)); err != nil {
		return DMA{}, errors.Join(err, unix.Munmap(data))
	}
	p.pieces = append(p.pieces, piece{d, data, -1})
	return d, nil
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

func (p *physical) FreeDMA(d DMA) error {
	for i, x := range p.pieces {
		if x.DMA == d {
			p.pieces = append(p.pieces[:i], p.pieces[i+1:]...)
			return unix.Munmap(x.data)
		}
	}
	return fmt.Errorf("give back %d bytes at %#x: they were not allocated here", d.Size, d.IOVA)
}

func (p *physical) MapRegion(Region) (uint64, error) { return 0, ErrUnsupported }
func (p *physical) UnmapRegion(uint64, uint64) error { return ErrUnsupported }
func (p *physical) Interrupt(int, int) error         { return ErrUnsupported }

// Reset is done by the kernel, where it knows how; the master bit is off after it.
func (p *physical) Reset() error {
	if err := os.WriteFile(filepath.Join(p.host.device(p.address), "reset"), []byte("1"), 0o200); err != nil {
		return fmt.Errorf("reset %s: %w", p.address, err)
	}
	return enableBusMaster(p)
}

// Close takes the device off the bus before its memory goes back to the kernel.
func (p *physical) Close() (err error) {
	if command, e := p.ReadConfig(pciCommand, 2); e == nil {
		err = p.WriteConfig(pciCommand, 2, command&^pciCommandMaster)
	}
	for len(p.pieces) > 0 {
		err = errors.Join(err, p.FreeDMA(p.pieces[0].DMA))
	}
	for _, w := range p.registers {
		err = errors.Join(err, unix.Munmap(w.data))
	}
	return errors.Join(err, p.config.Close())
}
