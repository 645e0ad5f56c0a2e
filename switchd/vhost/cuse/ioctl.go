package cuse

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost"
)

// ioctl is the number of a request of linux/vhost.h: direction, size of the argument, type 0xAF and sequence number. The numbers are those
// of x86, ARM, RISC-V and s390.
type ioctl uint32

// Requests.
const (
	VHOST_GET_FEATURES               ioctl = 0x8008AF00
	VHOST_SET_FEATURES               ioctl = 0x4008AF00
	VHOST_SET_OWNER                  ioctl = 0x0000AF01
	VHOST_RESET_OWNER                ioctl = 0x0000AF02
	VHOST_SET_MEM_TABLE              ioctl = 0x4008AF03
	VHOST_SET_LOG_BASE               ioctl = 0x4008AF04
	VHOST_SET_LOG_FD                 ioctl = 0x4004AF07
	VHOST_SET_VRING_NUM              ioctl = 0x4008AF10
	VHOST_SET_VRING_ADDR             ioctl = 0x4028AF11
	VHOST_SET_VRING_BASE             ioctl = 0x4008AF12
	VHOST_GET_VRING_BASE             ioctl = 0xC008AF12
	VHOST_SET_VRING_ENDIAN           ioctl = 0x4008AF13
	VHOST_GET_VRING_ENDIAN           ioctl = 0x4008AF14
	VHOST_SET_VRING_KICK             ioctl = 0x4008AF20
	VHOST_SET_VRING_CALL             ioctl = 0x4008AF21
	VHOST_SET_VRING_ERR              ioctl = 0x4008AF22
	VHOST_SET_VRING_BUSYLOOP_TIMEOUT ioctl = 0x4008AF23
	VHOST_GET_VRING_BUSYLOOP_TIMEOUT ioctl = 0x4008AF24
	VHOST_SET_BACKEND_FEATURES       ioctl = 0x4008AF25
	VHOST_GET_BACKEND_FEATURES       ioctl = 0x8008AF26
	VHOST_NET_SET_BACKEND            ioctl = 0x4008AF30
)

// What QEMU tries first since version 10.2. Where they are not known it uses VHOST_GET_FEATURES and VHOST_SET_FEATURES.
const (
	VHOST_GET_FEATURES_ARRAY ioctl = 0x8008AF83
	VHOST_SET_FEATURES_ARRAY ioctl = 0x4008AF83
)

// VHOST_NET_F_VIRTIO_NET_HDR: the backend (the tap) has no virtio header, so the device drops that of the ring. The switch always does.
const VHOST_NET_F_VIRTIO_NET_HDR = 27

// VHOST_VRING_F_LOG of vhost_vring_addr: log writes to the ring.
const VHOST_VRING_F_LOG = 1 << 0

// request describes an ioctl: its name, the bytes that it takes from its caller's memory at the address in its argument, and those that it
// writes there. SET_MEM_TABLE takes regions behind them.
type request struct {
	name    string
	in, out uint32
	handle  handler
}

// Sizes of the structures of linux/vhost_types.h.
const (
	stateSize  = 8  // vhost_vring_state, vhost_vring_file
	addrSize   = 40 // vhost_vring_addr
	tableSize  = 8  // vhost_memory
	regionSize = 32 // vhost_memory_region
)

func (i ioctl) String() string {
	if r, ok := requests[i]; ok {
		return r.name
	}
	return fmt.Sprintf("ioctl %#08x", uint32(i))
}

// wanted tells which memory of the caller an ioctl needs and what is there of it: ready when all is. Where it is not, the kernel is asked for
// in and out and sends the ioctl again. The table's number of regions is read anew each time; only what came in one piece is used.
func (r request) wanted(cmd ioctl, m ioctlIn) (in, out []span, ready bool, errno unix.Errno) {
	size := uint64(r.in)
	have := uint64(len(m.Data))
	if cmd == VHOST_SET_MEM_TABLE && have >= tableSize {
		regions := binary.NativeEndian.Uint32(m.Data)
		if regions > vhost.MaxMemorySlots {
			return nil, nil, false, unix.E2BIG
		}
		size += uint64(regions) * regionSize
	}
	switch {
	case have == size && m.OutSize >= r.out:
		return nil, nil, true, 0
	case have > size || have > tableSize: // another number of regions than a moment ago
		return nil, nil, false, unix.EFAULT
	}
	if size > 0 {
		in = []span{{m.Arg, size}}
	}
	if r.out > 0 {
		out = []span{{m.Arg, uint64(r.out)}}
	}
	return in, out, false, 0
}

// vringState is vhost_vring_state and vhost_vring_file.
func vringState(data []byte) (index, value uint32) {
	return binary.NativeEndian.Uint32(data), binary.NativeEndian.Uint32(data[4:])
}

// vringAddr is vhost_vring_addr.
func vringAddr(data []byte) (index, flags uint32, a vhost.RingAddresses) {
	e := binary.NativeEndian
	return e.Uint32(data), e.Uint32(data[4:]), vhost.RingAddresses{Desc: e.Uint64(data[8:]), Used: e.Uint64(data[16:]), Avail: e.Uint64(data[24:])}
}

// guestRegion is vhost_memory_region: a piece of guest memory, and where the caller has it. All values are the caller's.
type guestRegion struct{ GuestPhysAddr, Size, UserAddr uint64 }

// end is the address behind the region in the caller. decodeTable has checked it.
func (r guestRegion) end() uint64 { return r.UserAddr + r.Size }

// decodeTable is vhost_memory.
func decodeTable(data []byte) ([]guestRegion, unix.Errno) {
	e := binary.NativeEndian
	n, padding := e.Uint32(data), e.Uint32(data[4:])
	if padding != 0 {
		return nil, unix.EOPNOTSUPP
	}
	if n > vhost.MaxMemorySlots || len(data) != tableSize+int(n)*regionSize {
		return nil, unix.E2BIG
	}
	var regions []guestRegion
	for data = data[tableSize:]; len(data) > 0; data = data[regionSize:] {
		r := guestRegion{e.Uint64(data), e.Uint64(data[8:]), e.Uint64(data[16:])}
		if r.Size == 0 || r.GuestPhysAddr+r.Size < r.GuestPhysAddr || r.end() < r.UserAddr {
			return nil, unix.EFAULT
		}
		regions = append(regions, r)
	}
	return regions, 0
}
