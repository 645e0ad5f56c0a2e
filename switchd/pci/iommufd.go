package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// IOMMUFD's requests and flags (linux/iommufd.h), and VFIO's for devices of their own (linux/vfio.h).
const (
	iommufdBase = ';'<<8 + 0x80

	IOMMU_IOAS_ALLOC       = iommufdBase + 1
	IOMMU_IOAS_IOVA_RANGES = iommufdBase + 4
	IOMMU_IOAS_MAP         = iommufdBase + 5
	IOMMU_IOAS_UNMAP       = iommufdBase + 6

	IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0
	IOMMU_IOAS_MAP_WRITEABLE  = 1 << 1
	IOMMU_IOAS_MAP_READABLE   = 1 << 2

	VFIO_DEVICE_BIND_IOMMUFD      = vfioBase + 18
	VFIO_DEVICE_ATTACH_IOMMUFD_PT = vfioBase + 19
)

type ioasAlloc struct{ size, _, id uint32 }
type ioasMap struct {
	size, flags, id, _  uint32
	vaddr, length, iova uint64
}
type ioasUnmap struct {
	size, id     uint32
	iova, length uint64
}
type bindIOMMUFD struct {
	argsz, _ uint32
	iommufd  int32
	_        uint32
}
type attachPageTable struct{ argsz, _, id uint32 }

// errNoIOMMUFD says that the kernel does not have it, or not for us.
var errNoIOMMUFD = errors.New("no iommufd")

// ioas is an IOMMU by iommufd: an address space of our own, which the device is attached to.
type ioas struct {
	fd int
	id uint32
}

// openByIOMMUFD opens the device by its own node (Linux 6.6) and attaches it to an address space. It gives errNoIOMMUFD where there is no such
// node, or one of the two belongs to another user: the group may not.
func (h Host) openByIOMMUFD(address string) (_ iommu, _ int, err error) {
	names, _ := filepath.Glob(filepath.Join(h.device(address), "vfio-dev", "vfio*"))
	if len(names) == 0 {
		return nil, -1, errNoIOMMUFD
	}
	s, device := &ioas{fd: -1}, -1
	defer func() {
		if err != nil {
			closeAll(&s.fd, &device)
		}
	}()
	if device, err = openNode(filepath.Join("/dev/vfio/devices", filepath.Base(names[0]))); err != nil {
		return nil, -1, err
	}
	if s.fd, err = openNode("/dev/iommu"); err != nil {
		return nil, -1, err
	}
	bind := bindIOMMUFD{argsz: size(bindIOMMUFD{}), iommufd: int32(s.fd)}
	if _, err := ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind, "take "+address); err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, -1, fmt.Errorf("%w: %s", err, fmt.Sprintf(unsafeInterrupts, "iommufd"))
		}
		return nil, -1, fmt.Errorf("%w: another program may be using it, or the kernel another device of its IOMMU group: bind those to vfio-pci as well "+
			"(vhostctl nic bind)", err)
	}
	alloc := ioasAlloc{size: size(ioasAlloc{})}
	if _, err := ioctl(s.fd, IOMMU_IOAS_ALLOC, &alloc, "make an address space for "+address); err != nil {
		return nil, -1, err
	}
	s.id = alloc.id
	attach := attachPageTable{argsz: size(attachPageTable{}), id: s.id}
	if _, err := ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach, "put "+address+" under an IOMMU"); err != nil {
		return nil, -1, err
	}
	return s, device, nil
}

func openNode(name string) (int, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
		return fd, nil
	case unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.EACCES, unix.EPERM:
		return -1, fmt.Errorf("open %s: %w: %w", name, errNoIOMMUFD, err)
	}
	return -1, fmt.Errorf("open %s: %w", name, err)
}

func (s *ioas) give(access uint32, p guestmem.Ptr, iova, bytes uint64) error {
	m := ioasMap{size: size(ioasMap{}), flags: IOMMU_IOAS_MAP_FIXED_IOVA, id: s.id, vaddr: uint64(p), length: bytes, iova: iova}
	if access&VFIO_DMA_MAP_READ != 0 {
		m.flags |= IOMMU_IOAS_MAP_READABLE
	}
	if access&VFIO_DMA_MAP_WRITE != 0 {
		m.flags |= IOMMU_IOAS_MAP_WRITEABLE
	}
	_, err := ioctl(s.fd, IOMMU_IOAS_MAP, &m, "IOMMU_IOAS_MAP")
	return err
}

func (s *ioas) take(iova, bytes uint64) (uint64, error) {
	m := ioasUnmap{size: size(ioasUnmap{}), id: s.id, iova: iova, length: bytes}
	_, err := ioctl(s.fd, IOMMU_IOAS_UNMAP, &m, "IOMMU_IOAS_UNMAP")
	return m.length, err
}

// end asks for the ranges that may be used, {u64 first, last} each.
func (s *ioas) end() uint64 {
	const most, count, each = 1<<39 - 1, 64, 16
	ranges := make([]byte, count*each)
	ask := make([]byte, 32)
	le := binary.LittleEndian
	le.PutUint32(ask, uint32(len(ask)))
	le.PutUint32(ask[4:], s.id)
	le.PutUint32(ask[8:], count)
	if err := ioctlOut(s.fd, IOMMU_IOAS_IOVA_RANGES, ask, 16, ranges, "ask for the IOMMU's addresses"); err != nil {
		return most
	}
	end := uint64(0)
	for i := range min(int(le.Uint32(ask[8:])), count) {
		end = max(end, le.Uint64(ranges[i*each+8:]))
	}
	return end
}

func (s *ioas) close() { closeAll(&s.fd) }
