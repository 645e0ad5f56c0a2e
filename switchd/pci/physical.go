package pci

import (
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
	claim     *claim
	registers []*window
	memory    dmaPool
}

// openPhysical resets the device before it may reach memory: it may still have the addresses of a switch that was killed, and that memory is
// others' now.
func (h Host) openPhysical(address string) (Device, error) {
	c, err := h.claim(address)
	if err != nil {
		return nil, err
	}
	p := &physical{host: h, address: address, claim: c, memory: dmaPool{file: -1, socket: -1}}
	if err = p.leaveBus(); err == nil {
		err = p.Reset()
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return p, nil
}

func (p *physical) Address() string { return p.address }
func (p *physical) Access() string  { return "sysfs" }

func (p *physical) region() regionInfo { return regionInfo{size: 4096} }

func (p *physical) ReadConfig(offset, size int) (uint32, error) {
	return readAt(int(p.claim.config.Fd()), p.region(), p.address, offset, size)
}

func (p *physical) WriteConfig(offset, size int, value uint32) error {
	return writeAt(int(p.claim.config.Fd()), p.region(), p.address, offset, size, value)
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
	d, err := p.memory.take(p.host.physicalAddress)
	if err != nil {
		return DMA{}, fmt.Errorf("allocate a hugepage of 2 MiB for %s: %w (vhostctl hugepages provision)", p.address, err)
	}
	return d, nil
}

func (p *physical) FreeDMA(d DMA) error { return p.memory.give(d) }

func (p *physical) MapRegion(Region) (uint64, error) { return 0, ErrUnsupported }
func (p *physical) UnmapRegion(uint64, uint64) error { return ErrUnsupported }
func (p *physical) Interrupt(int, int) error         { return ErrUnsupported }

// Reset is done by the kernel, where it knows how; the master bit is off after it.
func (p *physical) Reset() error {
	if err := os.WriteFile(filepath.Join(p.host.device(p.address), "reset"), []byte("1"), 0o200); err != nil {
		return fmt.Errorf("reset %s: %w: without that it might go on with what it was told before", p.address, err)
	}
	return enableBusMaster(p)
}

// leaveBus clears the bus master bit and makes sure that it is clear. A device that is gone (all ones) reaches nothing.
func (p *physical) leaveBus() error {
	command, err := p.ReadConfig(pciCommand, 2)
	if err == nil {
		err = p.WriteConfig(pciCommand, 2, command&^pciCommandMaster)
	}
	if err == nil {
		command, err = p.ReadConfig(pciCommand, 2)
	}
	if err == nil && command&pciCommandMaster != 0 && command != 0xffff {
		err = fmt.Errorf("the command register is %#x", command)
	}
	if err != nil {
		return fmt.Errorf("take %s off the bus: clear the bus master bit of its command register: %w", p.address, err)
	}
	return nil
}

// Close takes the device off the bus before its memory goes back to the kernel. If that fails the memory stays this process's, and the device
// node is given back, so that the kernel tries it.
func (p *physical) Close() (err error) {
	if err := p.leaveBus(); err != nil {
		return errors.Join(fmt.Errorf("%w: its memory is kept until the switch ends", err), p.claim.leave())
	}
	err = p.memory.close()
	for _, w := range p.registers {
		err = errors.Join(err, unix.Munmap(w.data))
	}
	p.registers = nil
	return errors.Join(err, p.claim.close())
}
