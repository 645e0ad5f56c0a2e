package pci

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// window is a mapped BAR.
type window struct {
	data []byte
	base guestmem.Ptr
}

// Read32 is one load of 32 bits.
//
//go:noinline
func (w *window) Read32(offset uint32) uint32 {
	_ = w.data[offset|3]
	return (w.base + guestmem.Ptr(offset&^3)).LoadAcquireU32()
}

// Write32 is one store of 32 bits, after all earlier ones. On x86 stores to memory that is not cached come after all others anyway; elsewhere the
// releasing store sees to it. It is not inlined, so that no store is left out as overwritten by the next.
//
//go:noinline
func (w *window) Write32(offset, value uint32) {
	_ = w.data[offset|3]
	(w.base + guestmem.Ptr(offset&^3)).StoreReleaseU32(value)
}

func (w *window) Len() int { return len(w.data) }

// readAt reads a value of a region of a file.
func readAt(fd int, r regionInfo, address string, offset, size int) (uint32, error) {
	var b [4]byte
	if offset < 0 || size != 1 && size != 2 && size != 4 || uint64(offset+size) > r.size {
		return 0, fmt.Errorf("read %d bytes at %#x of the configuration of %s: it has %d", size, offset, address, r.size)
	}
	if n, err := unix.Pread(fd, b[:size], int64(r.offset)+int64(offset)); err != nil || n != size {
		return 0, fmt.Errorf("read %d bytes at %#x of the configuration of %s: %w", size, offset, address, shortened(err))
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

func writeAt(fd int, r regionInfo, address string, offset, size int, value uint32) error {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], value)
	if offset < 0 || size != 1 && size != 2 && size != 4 || uint64(offset+size) > r.size {
		return fmt.Errorf("write %d bytes at %#x of the configuration of %s: it has %d", size, offset, address, r.size)
	}
	if n, err := unix.Pwrite(fd, b[:size], int64(r.offset)+int64(offset)); err != nil || n != size {
		return fmt.Errorf("write %d bytes at %#x of the configuration of %s: %w", size, offset, address, shortened(err))
	}
	return nil
}

func shortened(err error) error {
	if err == nil {
		return unix.EIO
	}
	return err
}

// The command register (PCI 3.0, 6.2.2).
const (
	pciCommand       = 0x04
	pciCommandMemory = 1 << 1
	pciCommandMaster = 1 << 2
)

// enableBusMaster lets the device answer at its BARs and reach memory.
func enableBusMaster(c Config) error {
	command, err := c.ReadConfig(pciCommand, 2)
	if err != nil {
		return err
	}
	return c.WriteConfig(pciCommand, 2, command|pciCommandMemory|pciCommandMaster)
}
