package nic82599

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// Device is the card as a driver in this process has it. Its memory is a mapping of the process; what is not allocated or mapped is out of the
// card's reach.
func (n *NIC) Device() pci.Device {
	d := &device{nic: n, calls: map[int]int{}, next: 0x1000_0000}
	n.SetMemory(d)
	n.SetInterrupt(d.signal)
	return d
}

type device struct {
	nic *NIC

	mu    sync.RWMutex
	areas []area
	next  uint64 // IOVA

	callMu sync.Mutex
	calls  map[int]int // vector to eventfd
}

type area struct {
	iova  uint64
	data  []byte
	owned bool // made by AllocDMA
}

func (d *device) Address() string { return "model" }
func (d *device) Access() string  { return "in process" }

func (d *device) ReadConfig(offset, size int) (uint32, error) { return d.nic.ReadConfig(offset, size) }
func (d *device) WriteConfig(offset, size int, value uint32) error {
	return d.nic.WriteConfig(offset, size, value)
}

type registers struct{ nic *NIC }

func (r registers) Read32(offset uint32) uint32  { r.check(offset); return r.nic.ReadBAR(offset) }
func (r registers) Write32(offset, value uint32) { r.check(offset); r.nic.WriteBAR(offset, value) }
func (r registers) Len() int                     { return regs.BARSize }
func (r registers) check(offset uint32) {
	if offset%4 != 0 || offset >= regs.BARSize {
		panic(fmt.Sprintf("register access at %#x", offset))
	}
}

func (d *device) BAR(index int) (pci.Registers, error) {
	if index != 0 {
		return nil, fmt.Errorf("BAR %d: the model's registers are in BAR 0", index)
	}
	return registers{d.nic}, nil
}

// AllocDMA leaves a page between two pieces, so that what runs over an end is noticed.
func (d *device) AllocDMA(size int) (pci.DMA, error) {
	size = (size + 4095) &^ 4095
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return pci.DMA{}, fmt.Errorf("allocate %d bytes of memory: %w", size, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a := area{d.next, data, true}
	d.next += uint64(size) + 4096
	d.areas = append(d.areas, a)
	return pci.DMA{Addr: pointer(data), IOVA: a.iova, Size: size}, nil
}

func (d *device) FreeDMA(m pci.DMA) error { return d.remove(m.IOVA, uint64(m.Size), true) }

// MapRegion, too, leaves a page.
func (d *device) MapRegion(r pci.Region) (uint64, error) {
	if r.Addr%4096 != 0 || r.Size%4096 != 0 || r.Size == 0 {
		return 0, fmt.Errorf("map %d bytes at %#x for the device: not whole pages", r.Size, uintptr(r.Addr))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	iova := d.next
	d.next += r.Size + 4096
	d.areas = append(d.areas, area{iova, bytes(r.Addr, r.Size), false})
	return iova, nil
}

func (d *device) UnmapRegion(iova, size uint64) error { return d.remove(iova, size, false) }

func (d *device) remove(iova, size uint64, owned bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, a := range d.areas {
		if a.iova == iova && uint64(len(a.data)) == size && a.owned == owned {
			d.areas = append(d.areas[:i], d.areas[i+1:]...)
			if owned {
				return unix.Munmap(a.data)
			}
			return nil
		}
	}
	return fmt.Errorf("take %d bytes at %#x from the device: they are not mapped", size, iova)
}

// piece gives the memory at an address of the device.
func (d *device) piece(iova uint64, size int) (data []byte, owned bool, err error) {
	for _, a := range d.areas {
		if iova >= a.iova && iova-a.iova < uint64(len(a.data)) && uint64(size) <= uint64(len(a.data))-(iova-a.iova) {
			return a.data[iova-a.iova:][:size], a.owned, nil
		}
	}
	return nil, false, fmt.Errorf("nothing is mapped at %#x", iova)
}

func (d *device) ReadDMA(iova uint64, p []byte) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	m, _, err := d.piece(iova, len(p))
	copy(p, m)
	return err
}

// WriteDMA writes only what is the driver's own: regions of others are mapped for reading.
func (d *device) WriteDMA(iova uint64, p []byte) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	m, owned, err := d.piece(iova, len(p))
	if err == nil && !owned {
		return fmt.Errorf("%#x is mapped for reading only", iova)
	}
	copy(m, p)
	return err
}

func (d *device) Interrupt(vector, eventfd int) error {
	if vector < 0 || vector >= regs.MSIXVectors {
		return fmt.Errorf("vector %d: the device has %d", vector, regs.MSIXVectors)
	}
	d.callMu.Lock()
	defer d.callMu.Unlock()
	if delete(d.calls, vector); eventfd >= 0 {
		d.calls[vector] = eventfd
	}
	return nil
}

func (d *device) signal(vector int) {
	d.callMu.Lock()
	defer d.callMu.Unlock()
	if fd, ok := d.calls[vector]; ok {
		_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

func (d *device) Reset() error {
	d.nic.Reset()
	return nil
}

func (d *device) Close() error {
	d.nic.SetInterrupt(nil)
	d.nic.SetMemory(nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.areas {
		if a.owned {
			_ = unix.Munmap(a.data)
		}
	}
	d.areas = nil
	return nil
}

var _ pci.Device = (*device)(nil)
var _ Memory = (*device)(nil)
