package vfiouser

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// Commands.
const (
	VFIO_USER_VERSION                = 1
	VFIO_USER_DMA_MAP                = 2
	VFIO_USER_DMA_UNMAP              = 3
	VFIO_USER_DEVICE_GET_INFO        = 4
	VFIO_USER_DEVICE_GET_REGION_INFO = 5
	VFIO_USER_DEVICE_GET_IRQ_INFO    = 7
	VFIO_USER_DEVICE_SET_IRQS        = 8
	VFIO_USER_REGION_READ            = 9
	VFIO_USER_REGION_WRITE           = 10
	VFIO_USER_DEVICE_RESET           = 13
)

// Flags of a message's header: the type in the lowest four bits.
const (
	typeMask    = 0xf
	typeCommand = 0
	typeReply   = 1
	flagNoReply = 1 << 4
	flagError   = 1 << 5
)

// What VFIO calls the parts of a PCI device (linux/vfio.h).
const (
	VFIO_PCI_BAR0_REGION_INDEX   = 0
	VFIO_PCI_BAR5_REGION_INDEX   = 5
	VFIO_PCI_CONFIG_REGION_INDEX = 7
	VFIO_PCI_NUM_REGIONS         = 9
	VFIO_PCI_MSIX_IRQ_INDEX      = 2
	VFIO_PCI_NUM_IRQS            = 5

	VFIO_DEVICE_FLAGS_RESET     = 1 << 0
	VFIO_DEVICE_FLAGS_PCI       = 1 << 1
	VFIO_REGION_INFO_FLAG_READ  = 1 << 0
	VFIO_REGION_INFO_FLAG_WRITE = 1 << 1
	VFIO_IRQ_INFO_EVENTFD       = 1 << 0
	VFIO_IRQ_INFO_NORESIZE      = 1 << 3

	VFIO_IRQ_SET_DATA_NONE      = 1 << 0
	VFIO_IRQ_SET_DATA_BOOL      = 1 << 1
	VFIO_IRQ_SET_DATA_EVENTFD   = 1 << 2
	VFIO_IRQ_SET_ACTION_MASK    = 1 << 3
	VFIO_IRQ_SET_ACTION_UNMASK  = 1 << 4
	VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5

	VFIO_USER_F_DMA_REGION_READ  = 1 << 0
	VFIO_USER_F_DMA_REGION_WRITE = 1 << 1
)

const (
	headerSize = 16
	// maxData bounds one region access, in bytes; maxMessage a whole message.
	maxData    = 1 << 16
	maxMessage = headerSize + 16 + maxData
	maxFDs     = 64 // of one message: all MSI-X vectors at once
	toldFDs    = 16 // what is told: QEMU refuses more
	toldAreas  = 65535
)

// ErrProtocol says that a client sent what the protocol does not allow.
var ErrProtocol = errors.New("vfio-user protocol error")

// header starts each message: {u16 id, u16 command, u32 size, u32 flags, u32 errno}, little endian.
type header struct {
	id, command        uint16
	size, flags, errno uint32
}

func parseHeader(b []byte) (h header, err error) {
	if len(b) < headerSize {
		return h, fmt.Errorf("%w: a header of %d bytes", ErrProtocol, len(b))
	}
	le := binary.LittleEndian
	h = header{le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}
	if h.size < headerSize || h.size > maxMessage {
		return h, fmt.Errorf("%w: a message of %d bytes", ErrProtocol, h.size)
	}
	return h, nil
}

func (h header) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, h.id)
	b = le.AppendUint16(b, h.command)
	b = le.AppendUint32(b, h.size)
	b = le.AppendUint32(b, h.flags)
	return le.AppendUint32(b, h.errno)
}

// The payloads. Each decoder checks the length first.

type versionMessage struct {
	Major, Minor uint16
	Capabilities capabilities
}

type capabilities struct {
	MaxFDs      int    `json:"max_msg_fds,omitempty"`
	MaxData     int    `json:"max_data_xfer_size,omitempty"`
	PageSizes   uint64 `json:"pgsizes,omitempty"`
	MaxDMAMaps  int    `json:"max_dma_maps,omitempty"`
	TwinSocket  any    `json:"twin_socket,omitempty"`
	WriteMulti  bool   `json:"write_multiple,omitempty"`
	MaxMigrated any    `json:"migration,omitempty"`
}

func parseVersion(b []byte) (v versionMessage, err error) {
	if len(b) < 4 {
		return v, fmt.Errorf("%w: VERSION of %d bytes", ErrProtocol, len(b))
	}
	v.Major, v.Minor = binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])
	text, _, _ := bytes.Cut(b[4:], []byte{0})
	var outer struct {
		Capabilities capabilities `json:"capabilities"`
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &outer); err != nil {
			return v, fmt.Errorf("%w: VERSION: %w", ErrProtocol, err)
		}
	}
	v.Capabilities = outer.Capabilities
	return v, nil
}

func (v versionMessage) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, v.Major)
	b = binary.LittleEndian.AppendUint16(b, v.Minor)
	text, _ := json.Marshal(map[string]any{"capabilities": v.Capabilities})
	return append(append(b, text...), 0)
}

type dmaMessage struct {
	argsz, flags          uint32
	offset, address, size uint64
}

func parseDMAMap(b []byte) (m dmaMessage, err error) {
	if len(b) < 32 {
		return m, fmt.Errorf("%w: DMA_MAP of %d bytes", ErrProtocol, len(b))
	}
	le := binary.LittleEndian
	return dmaMessage{le.Uint32(b), le.Uint32(b[4:]), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}, nil
}

func parseDMAUnmap(b []byte) (m dmaMessage, err error) {
	if len(b) < 24 {
		return m, fmt.Errorf("%w: DMA_UNMAP of %d bytes", ErrProtocol, len(b))
	}
	le := binary.LittleEndian
	return dmaMessage{argsz: le.Uint32(b), flags: le.Uint32(b[4:]), address: le.Uint64(b[8:]), size: le.Uint64(b[16:])}, nil
}

// access is the start of REGION_READ and REGION_WRITE: {u64 offset, u32 region, u32 count}.
type access struct {
	offset        uint64
	region, count uint32
}

const accessSize = 16

func parseAccess(b []byte) (a access, err error) {
	if len(b) < accessSize {
		return a, fmt.Errorf("%w: a region access of %d bytes", ErrProtocol, len(b))
	}
	le := binary.LittleEndian
	a = access{le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])}
	if a.count > maxData {
		return a, fmt.Errorf("%w: an access to %d bytes at once", ErrProtocol, a.count)
	}
	return a, nil
}

func (a access) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, a.offset)
	b = binary.LittleEndian.AppendUint32(b, a.region)
	return binary.LittleEndian.AppendUint32(b, a.count)
}

// setIRQs is SET_IRQS: {u32 argsz, flags, index, start, count} and data.
type setIRQs struct {
	argsz, flags, index, start, count uint32
	data                              []byte
}

func parseSetIRQs(b []byte) (s setIRQs, err error) {
	if len(b) < 20 {
		return s, fmt.Errorf("%w: SET_IRQS of %d bytes", ErrProtocol, len(b))
	}
	le := binary.LittleEndian
	return setIRQs{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:]), b[20:]}, nil
}

// words decodes so many u32.
func words(b []byte, n int, what string) ([]uint32, error) {
	if len(b) < 4*n {
		return nil, fmt.Errorf("%w: %s of %d bytes", ErrProtocol, what, len(b))
	}
	list := make([]uint32, n)
	for i := range list {
		list[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return list, nil
}
