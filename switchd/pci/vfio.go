package pci

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// VFIO's requests and flags (linux/vfio.h).
const (
	vfioBase = ';'<<8 + 100

	VFIO_GET_API_VERSION        = vfioBase + 0
	VFIO_CHECK_EXTENSION        = vfioBase + 1
	VFIO_SET_IOMMU              = vfioBase + 2
	VFIO_GROUP_GET_STATUS       = vfioBase + 3
	VFIO_GROUP_SET_CONTAINER    = vfioBase + 4
	VFIO_GROUP_GET_DEVICE_FD    = vfioBase + 6
	VFIO_DEVICE_GET_REGION_INFO = vfioBase + 8
	VFIO_DEVICE_GET_IRQ_INFO    = vfioBase + 9
	VFIO_DEVICE_SET_IRQS        = vfioBase + 10
	VFIO_DEVICE_RESET           = vfioBase + 11
	VFIO_IOMMU_GET_INFO         = vfioBase + 12
	VFIO_IOMMU_MAP_DMA          = vfioBase + 13
	VFIO_IOMMU_UNMAP_DMA        = vfioBase + 14

	VFIO_API_VERSION     = 0
	VFIO_TYPE1_IOMMU     = 1
	VFIO_TYPE1v2_IOMMU   = 3
	VFIO_NOIOMMU_IOMMU   = 8
	VFIO_GROUP_VIABLE    = 1 << 0
	VFIO_DMA_MAP_READ    = 1 << 0
	VFIO_DMA_MAP_WRITE   = 1 << 1
	VFIO_REGION_MMAP     = 1 << 2
	VFIO_PCI_CONFIG      = 7 // region
	VFIO_PCI_MSIX        = 2 // interrupts
	VFIO_IRQ_NONE        = 1 << 0
	VFIO_IRQ_EVENTFD     = 1 << 2
	VFIO_IRQ_TRIGGER     = 1 << 5
	VFIO_INFO_CAPS       = 1 << 1
	VFIO_CAP_IOVA_RANGES = 1
)

type groupStatus struct{ argsz, flags uint32 }
type regionInfo struct {
	argsz, flags, index, _ uint32
	size, offset           uint64
}
type irqInfo struct{ argsz, _, index, count uint32 }
type dmaMap struct {
	argsz, flags      uint32
	vaddr, iova, size uint64
}
type dmaUnmap struct {
	argsz, _   uint32
	iova, size uint64
}

// vfio is a device that the kernel's VFIO gives, with an IOMMU that keeps it to what is mapped.
type vfio struct {
	mappings
	address   string
	iommu     iommu
	device    int
	config    regionInfo
	irqs      int
	calls     []int // eventfd of each vector, -1 for none
	registers []*window
}

// iommu is what translates a device's addresses: the kernel's old interface for it or the new one.
type iommu interface {
	// give maps memory of this process for the device; access is VFIO_DMA_MAP_READ and VFIO_DMA_MAP_WRITE.
	give(access uint32, p guestmem.Ptr, iova, bytes uint64) error
	// take unmaps it and tells how many bytes that were.
	take(iova, bytes uint64) (uint64, error)
	// end is the highest address that it translates.
	end() uint64
	close()
}

// openVFIO opens a device that is bound to vfio-pci: by iommufd where the kernel has that, otherwise by its IOMMU group.
func (h Host) openVFIO(address string) (_ Device, err error) {
	v := &vfio{address: address}
	if v.iommu, v.device, err = h.openByIOMMUFD(address); errors.Is(err, errNoIOMMUFD) {
		v.iommu, v.device, err = h.openByGroup(address)
	}
	if err != nil {
		return nil, err
	}
	if err := v.describe(); err != nil {
		v.closeFiles()
		return nil, err
	}
	return v, nil
}

func openFile(name, hint string) (int, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w: %s", name, err, hint)
	}
	return fd, nil
}

// describe learns the places of the configuration space and the interrupts, makes the device master of the bus, and finds room for our memory.
func (v *vfio) describe() (err error) {
	if v.config, err = v.region(VFIO_PCI_CONFIG); err != nil {
		return err
	}
	irqs := irqInfo{argsz: size(irqInfo{}), index: VFIO_PCI_MSIX}
	if _, err := ioctl(v.device, VFIO_DEVICE_GET_IRQ_INFO, &irqs, "ask "+v.address+" for its interrupts"); err == nil {
		v.irqs = int(irqs.count)
	}
	if err := enableBusMaster(v); err != nil {
		return err
	}
	v.next = dmaBase(v.iommu.end())
	return nil
}

func (v *vfio) region(index uint32) (regionInfo, error) {
	r := regionInfo{argsz: size(regionInfo{}), index: index}
	_, err := ioctl(v.device, VFIO_DEVICE_GET_REGION_INFO, &r, fmt.Sprintf("ask %s for region %d", v.address, index))
	return r, err
}

// dmaBase is where our own memory begins: the upper half, away from where guests have theirs.
func dmaBase(end uint64) uint64 {
	if end == ^uint64(0) {
		end--
	}
	return (end + 1) / 2 &^ (1<<30 - 1)
}

func (v *vfio) Address() string { return v.address }

// Access tells the two interfaces apart.
func (v *vfio) Access() string {
	if _, ok := v.iommu.(*ioas); ok {
		return "vfio by iommufd"
	}
	return "vfio"
}

func (v *vfio) ReadConfig(offset, size int) (uint32, error) {
	return readAt(v.device, v.config, v.address, offset, size)
}

func (v *vfio) WriteConfig(offset, size int, value uint32) error {
	return writeAt(v.device, v.config, v.address, offset, size, value)
}

func (v *vfio) BAR(index int) (Registers, error) {
	r, err := v.region(uint32(index))
	switch {
	case err != nil:
		return nil, err
	case r.size == 0 || r.flags&VFIO_REGION_MMAP == 0:
		return nil, fmt.Errorf("map BAR %d of %s: %w: it is not memory, or the kernel does not let it be mapped", index, v.address, ErrUnsupported)
	}
	data, err := unix.Mmap(v.device, int64(r.offset), int(r.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map BAR %d of %s, %d bytes: %w", index, v.address, r.size, err)
	}
	w := &window{data: data, base: guestmem.AddressOf(data)}
	v.registers = append(v.registers, w)
	return w, nil
}

func (v *vfio) AllocDMA(bytes int) (DMA, error) { return v.alloc(bytes, v.mapDMA) }
func (v *vfio) FreeDMA(m DMA) error             { return v.free(m, v.unmapDMA) }

func (v *vfio) mapDMA(p guestmem.Ptr, iova, bytes uint64, _ int, _ uint64) error {
	return v.give(VFIO_DMA_MAP_READ|VFIO_DMA_MAP_WRITE, p, iova, bytes)
}

func (v *vfio) mapForReading(p guestmem.Ptr, iova, bytes uint64, _ int, _ uint64) error {
	return v.give(VFIO_DMA_MAP_READ, p, iova, bytes)
}

func (v *vfio) give(access uint32, p guestmem.Ptr, iova, bytes uint64) error {
	err := v.iommu.give(access, p, iova, bytes)
	if err != nil {
		err = fmt.Errorf("map %d bytes at %#x for %s: %w", bytes, iova, v.address, err)
	}
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("%w: the limit of locked memory is too low (ulimit -l; LimitMEMLOCK= in a unit)", err)
	}
	return err
}

func (v *vfio) unmapDMA(iova, bytes uint64) error {
	taken, err := v.iommu.take(iova, bytes)
	if err == nil && taken != bytes {
		err = fmt.Errorf("only %d were mapped", taken)
	}
	if err != nil {
		return fmt.Errorf("take %d bytes at %#x from %s: %w", bytes, iova, v.address, err)
	}
	return nil
}

func (v *vfio) MapRegion(r Region) (uint64, error) { return v.mappings.region(r, v.mapForReading) }

func (v *vfio) UnmapRegion(iova, bytes uint64) error {
	err := v.unmapDMA(iova, bytes)
	if err == nil {
		v.vacate(iova, bytes)
	}
	return err
}

// Interrupt sets all vectors anew: many devices cannot add one while others are on.
func (v *vfio) Interrupt(vector, eventfd int) error {
	if vector < 0 || vector >= v.irqs {
		return fmt.Errorf("vector %d of %s: %w: it has %d", vector, v.address, ErrUnsupported, v.irqs)
	}
	for len(v.calls) <= vector {
		v.calls = append(v.calls, -1)
	}
	v.calls[vector] = eventfd
	last := len(v.calls)
	for last > 0 && v.calls[last-1] < 0 {
		last--
	}
	v.calls = v.calls[:last]
	if err := ioctlBytes(v.device, VFIO_DEVICE_SET_IRQS, irqSet(nil), "switch off the interrupts of "+v.address); err != nil && last > 0 {
		return err
	}
	if last == 0 {
		return nil
	}
	return ioctlBytes(v.device, VFIO_DEVICE_SET_IRQS, irqSet(v.calls), "set the interrupts of "+v.address)
}

// irqSet is the argument of SET_IRQS for all vectors from 0 on; none switches MSI-X off.
func irqSet(calls []int) []byte {
	flags := uint32(VFIO_IRQ_TRIGGER | VFIO_IRQ_EVENTFD)
	if len(calls) == 0 {
		flags = VFIO_IRQ_TRIGGER | VFIO_IRQ_NONE
	}
	b := make([]byte, 0, 20+4*len(calls))
	for _, w := range []uint32{uint32(20 + 4*len(calls)), flags, VFIO_PCI_MSIX, 0, uint32(len(calls))} {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	for _, fd := range calls {
		b = binary.LittleEndian.AppendUint32(b, uint32(int32(fd)))
	}
	return b
}

func (v *vfio) Reset() error {
	if _, err := ioctl(v.device, VFIO_DEVICE_RESET, (*byte)(nil), "reset "+v.address); err != nil {
		return err
	}
	return enableBusMaster(v)
}

func (v *vfio) Close() error {
	err := v.freeAll(v.unmapDMA)
	for _, w := range v.registers {
		err = errors.Join(err, unix.Munmap(w.data))
	}
	v.registers = nil
	v.closeFiles()
	return err
}

func (v *vfio) closeFiles() {
	closeAll(&v.device)
	v.iommu.close()
}

// closeAll closes what is open.
func closeAll(fds ...*int) {
	for _, fd := range fds {
		if *fd >= 0 {
			_ = unix.Close(*fd)
		}
		*fd = -1
	}
}
