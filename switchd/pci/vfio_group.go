package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// typeOne is an IOMMU by VFIO's own interface: a container, which has one group of devices.
type typeOne struct{ container, group int }

// openByGroup takes the device's IOMMU group and opens the device.
func (h Host) openByGroup(address string) (_ iommu, device int, err error) {
	group, err := h.group(address)
	if err != nil {
		return nil, -1, err
	}
	t := &typeOne{-1, -1}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.container, err = openFile("/dev/vfio/vfio", "load the module vfio-pci (modprobe vfio-pci)"); err != nil {
		return nil, -1, err
	}
	if version, err := ioctl(t.container, VFIO_GET_API_VERSION, (*byte)(nil), "ask VFIO for its version"); err != nil || version != VFIO_API_VERSION {
		return nil, -1, fmt.Errorf("VFIO has version %d of its interface, want %d: %w", version, VFIO_API_VERSION, errors.Join(err, ErrUnsupported))
	}
	name := filepath.Join("/dev/vfio", strconv.Itoa(group))
	if t.group, err = openFile(name, "the group's device node may belong to another user, or another program has it open"); err != nil {
		return nil, -1, err
	}
	if device, err = h.attach(t, address, group); err != nil {
		return nil, -1, err
	}
	return t, device, nil
}

// attach puts the group under an IOMMU of our own and opens the device.
func (h Host) attach(t *typeOne, address string, group int) (device int, err error) {
	status := groupStatus{argsz: size(groupStatus{})}
	if _, err := ioctl(t.group, VFIO_GROUP_GET_STATUS, &status, "look at the IOMMU group"); err != nil {
		return -1, err
	}
	if status.flags&VFIO_GROUP_VIABLE == 0 {
		return -1, h.notViable(address, group)
	}
	container := int32(t.container)
	if _, err := ioctl(t.group, VFIO_GROUP_SET_CONTAINER, &container, fmt.Sprintf("take IOMMU group %d", group)); err != nil {
		return -1, fmt.Errorf("%w: another program may be using a device of the group", err)
	}
	kind := uintptr(VFIO_TYPE1v2_IOMMU)
	if n, _, _ := unix.Syscall(unix.SYS_IOCTL, uintptr(t.container), VFIO_CHECK_EXTENSION, kind); n != 1 {
		kind = VFIO_TYPE1_IOMMU
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(t.container), VFIO_SET_IOMMU, kind); errno != 0 {
		if errno == unix.EPERM {
			return -1, fmt.Errorf("put IOMMU group %d under an IOMMU: %w: %s", group, errno, fmt.Sprintf(unsafeInterrupts, "vfio_iommu_type1"))
		}
		return -1, fmt.Errorf("put IOMMU group %d under an IOMMU: %w: is vfio_iommu_type1 loaded?", group, errno)
	}
	text := append([]byte(address), 0)
	if device, err = ioctl(t.group, VFIO_GROUP_GET_DEVICE_FD, &text[0], "open "+address); err != nil {
		return -1, err
	}
	unix.CloseOnExec(device)
	return device, nil
}

const unsafeInterrupts = "this machine's IOMMU cannot remap interrupts; if you trust every guest, load %s with allow_unsafe_interrupts=1"

func (t *typeOne) give(access uint32, p guestmem.Ptr, iova, bytes uint64) error {
	m := dmaMap{argsz: size(dmaMap{}), flags: access, vaddr: uint64(p), iova: iova, size: bytes}
	_, err := ioctl(t.container, VFIO_IOMMU_MAP_DMA, &m, "VFIO_IOMMU_MAP_DMA")
	return err
}

func (t *typeOne) take(iova, bytes uint64) (uint64, error) {
	m := dmaUnmap{argsz: size(dmaUnmap{}), iova: iova, size: bytes}
	_, err := ioctl(t.container, VFIO_IOMMU_UNMAP_DMA, &m, "VFIO_IOMMU_UNMAP_DMA")
	return m.size, err
}

func (t *typeOne) close() { closeAll(&t.group, &t.container) }

// end is 2^39−1 where the kernel does not tell, which all have.
func (t *typeOne) end() uint64 {
	const most = 1<<39 - 1
	b := make([]byte, 4096)
	le := binary.LittleEndian
	le.PutUint32(b, uint32(len(b)))
	if ioctlBytes(t.container, VFIO_IOMMU_GET_INFO, b, "ask the IOMMU for its addresses") != nil || le.Uint32(b[4:])&VFIO_INFO_CAPS == 0 {
		return most
	}
	for at := le.Uint32(b[16:]); at >= 20 && int(at)+16 <= len(b); at = le.Uint32(b[at+4:]) {
		if le.Uint16(b[at:]) != VFIO_CAP_IOVA_RANGES {
			continue
		}
		end := uint64(0)
		for i := range le.Uint32(b[at+8:]) {
			if place := int(at) + 16 + 16*int(i); place+16 <= len(b) {
				end = max(end, le.Uint64(b[place+8:]))
			}
		}
		return end
	}
	return most
}
