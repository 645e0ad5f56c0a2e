// Package pci is access to a PCI function from user space: its configuration space, its registers, and memory that it may read and write. The
// ways there (VFIO, the files below /sys, vfio-user) look the same from here on; drivers do not know which one it is.
package pci

import (
	"errors"

	"vhostkit/switchd/guestmem"
)

// ErrUnsupported says that this way of access has no such thing (an interrupt where the device can only be polled, memory of others where
// there is no IOMMU).
var ErrUnsupported = errors.New("not supported by this way of access to the device")

// Registers are a memory BAR, read and written in 32-bit words, little endian. Offsets are bytes from its start, multiples of 4; one outside
// the BAR panics, as an index outside an array does. Writes reach the device in order, and after every earlier store to DMA memory.
type Registers interface {
	Read32(offset uint32) uint32
	Write32(offset, value uint32)
	// Len is the BAR's size in bytes.
	Len() int
}

// Config is the configuration space: 256 or 4096 bytes, values of 1, 2 or 4 bytes, little endian.
type Config interface {
	ReadConfig(offset, size int) (uint32, error)
	WriteConfig(offset, size int, value uint32) error
}

// DMA is memory that this process and the device share. The device sees it at IOVA, in one piece.
type DMA struct {
	Addr guestmem.Ptr // in this process; zeroed; aligned to a page at least
	IOVA uint64       // for the device
	Size int          // bytes
}

// Region is somebody else's memory that the device shall read, as a guest's region: mapped in this process at Addr, from a file.
type Region struct {
	Addr   guestmem.Ptr // a multiple of the page size
	FD     int          // of the file; stays the caller's. -1: not at hand, which does for VFIO
	Offset uint64       // in the file
	Size   uint64       // bytes, a multiple of the page size
}

// Device is a PCI function that this process has to itself. The methods of Registers may be called by any number of goroutines; of the others one
// goroutine at a time may get and give back our own memory (AllocDMA, FreeDMA), one map and unmap that of others, which may take seconds, and one
// do the rest, all beside each other. Close is for the last one that is left.
type Device interface {
	// Address is "0000:03:00.0" or what stands for it.
	Address() string
	// Access is "vfio", "vfio by iommufd", "sysfs" or "vfio-user".
	Access() string
	Config
	// BAR maps a memory BAR. It stays mapped until Close.
	BAR(index int) (Registers, error)
	// AllocDMA gives memory, in one piece for the device. It is given back by FreeDMA or Close.
	AllocDMA(size int) (DMA, error)
	FreeDMA(DMA) error
	// MapRegion lets the device read memory of others, and tells at which address; ErrUnsupported where nothing keeps the device to that.
	MapRegion(Region) (iova uint64, err error)
	// UnmapRegion takes it back, all of it. When it returns, the device cannot reach the memory any more.
	UnmapRegion(iova, size uint64) error
	// Interrupt makes MSI-X vector n signal the eventfd; a negative descriptor ends that. ErrUnsupported: poll.
	Interrupt(vector, eventfd int) error
	// Reset is a function-level reset, where the device has one.
	Reset() error
	Close() error
}
