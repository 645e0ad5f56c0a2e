package user

import (
	"encoding/binary"
	"errors"
	"fmt"

	"vhostkit/switchd/control/names"
)

// Request is a front-end's message type.
type Request uint32

const (
	VHOST_USER_GET_FEATURES          Request = 1
	VHOST_USER_SET_FEATURES          Request = 2
	VHOST_USER_SET_OWNER             Request = 3
	VHOST_USER_RESET_OWNER           Request = 4
	VHOST_USER_SET_MEM_TABLE         Request = 5
	VHOST_USER_SET_LOG_BASE          Request = 6
	VHOST_USER_SET_LOG_FD            Request = 7
	VHOST_USER_SET_VRING_NUM         Request = 8
	VHOST_USER_SET_VRING_ADDR        Request = 9
	VHOST_USER_SET_VRING_BASE        Request = 10
	VHOST_USER_GET_VRING_BASE        Request = 11
	VHOST_USER_SET_VRING_KICK        Request = 12
	VHOST_USER_SET_VRING_CALL        Request = 13
	VHOST_USER_SET_VRING_ERR         Request = 14
	VHOST_USER_GET_PROTOCOL_FEATURES Request = 15
	VHOST_USER_SET_PROTOCOL_FEATURES Request = 16
	VHOST_USER_GET_QUEUE_NUM         Request = 17
	VHOST_USER_SET_VRING_ENABLE      Request = 18
	VHOST_USER_SEND_RARP             Request = 19
	VHOST_USER_NET_SET_MTU           Request = 20
	VHOST_USER_SET_BACKEND_REQ_FD    Request = 21
	VHOST_USER_RESET_DEVICE          Request = 34
	VHOST_USER_GET_MAX_MEM_SLOTS     Request = 36
	VHOST_USER_ADD_MEM_REG           Request = 37
	VHOST_USER_REM_MEM_REG           Request = 38
	VHOST_USER_SET_STATUS            Request = 39
	VHOST_USER_GET_STATUS            Request = 40
)

var requestNames = map[Request]string{
	VHOST_USER_GET_FEATURES: "GET_FEATURES", VHOST_USER_SET_FEATURES: "SET_FEATURES", VHOST_USER_SET_OWNER: "SET_OWNER",
	VHOST_USER_RESET_OWNER: "RESET_OWNER", VHOST_USER_SET_MEM_TABLE: "SET_MEM_TABLE", VHOST_USER_SET_LOG_BASE: "SET_LOG_BASE",
	VHOST_USER_SET_LOG_FD: "SET_LOG_FD", VHOST_USER_SET_VRING_NUM: "SET_VRING_NUM", VHOST_USER_SET_VRING_ADDR: "SET_VRING_ADDR",
	VHOST_USER_SET_VRING_BASE: "SET_VRING_BASE", VHOST_USER_GET_VRING_BASE: "GET_VRING_BASE",
	VHOST_USER_SET_VRING_KICK: "SET_VRING_KICK", VHOST_USER_SET_VRING_CALL: "SET_VRING_CALL", VHOST_USER_SET_VRING_ERR: "SET_VRING_ERR",
	VHOST_USER_GET_PROTOCOL_FEATURES: "GET_PROTOCOL_FEATURES", VHOST_USER_SET_PROTOCOL_FEATURES: "SET_PROTOCOL_FEATURES",
	VHOST_USER_GET_QUEUE_NUM: "GET_QUEUE_NUM", VHOST_USER_SET_VRING_ENABLE: "SET_VRING_ENABLE", VHOST_USER_SEND_RARP: "SEND_RARP",
	VHOST_USER_NET_SET_MTU: "NET_SET_MTU", VHOST_USER_SET_BACKEND_REQ_FD: "SET_BACKEND_REQ_FD",
	VHOST_USER_RESET_DEVICE: "RESET_DEVICE", VHOST_USER_GET_MAX_MEM_SLOTS: "GET_MAX_MEM_SLOTS", VHOST_USER_ADD_MEM_REG: "ADD_MEM_REG",
	VHOST_USER_REM_MEM_REG: "REM_MEM_REG", VHOST_USER_SET_STATUS: "SET_STATUS", VHOST_USER_GET_STATUS: "GET_STATUS",
}

func (r Request) String() string {
	if name, ok := requestNames[r]; ok {
		return name
	}
	return fmt.Sprintf("request %d", uint32(r))
}

// Protocol features.
const (
	VHOST_USER_PROTOCOL_F_MQ                  = 0
	VHOST_USER_PROTOCOL_F_RARP                = 2
	VHOST_USER_PROTOCOL_F_REPLY_ACK           = 3
	VHOST_USER_PROTOCOL_F_MTU                 = 4
	VHOST_USER_PROTOCOL_F_BACKEND_REQ         = 5
	VHOST_USER_PROTOCOL_F_RESET_DEVICE        = 13
	VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15
	VHOST_USER_PROTOCOL_F_STATUS              = 16
)

var protocolFeatureNames = map[int]string{
	VHOST_USER_PROTOCOL_F_MQ: names.ProtocolMQ, VHOST_USER_PROTOCOL_F_RARP: names.ProtocolRarp, VHOST_USER_PROTOCOL_F_REPLY_ACK: names.ProtocolReplyAck,
	VHOST_USER_PROTOCOL_F_MTU: names.ProtocolMTU, VHOST_USER_PROTOCOL_F_BACKEND_REQ: names.ProtocolBackendReq,
	VHOST_USER_PROTOCOL_F_RESET_DEVICE: names.ProtocolResetDevice, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS: names.ProtocolConfigureMemSlots,
	VHOST_USER_PROTOCOL_F_STATUS: names.ProtocolStatus,
}

// OfferedProtocolFeatures is the set that GET_PROTOCOL_FEATURES reports.
const OfferedProtocolFeatures uint64 = 1<<VHOST_USER_PROTOCOL_F_MQ | 1<<VHOST_USER_PROTOCOL_F_RARP |
	1<<VHOST_USER_PROTOCOL_F_REPLY_ACK | 1<<VHOST_USER_PROTOCOL_F_MTU | 1<<VHOST_USER_PROTOCOL_F_BACKEND_REQ |
	1<<VHOST_USER_PROTOCOL_F_RESET_DEVICE | 1<<VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS | 1<<VHOST_USER_PROTOCOL_F_STATUS

// ProtocolFeatureNames lists the names of a set.
func ProtocolFeatureNames(set uint64) []string {
	var list []string
	for bit := range 64 {
		if set>>bit&1 == 0 {
			continue
		}
		name, ok := protocolFeatureNames[bit]
		if !ok {
			name = fmt.Sprintf("bit_%d", bit)
		}
		list = append(list, name)
	}
	return list
}

// Header flags.
const (
	flagVersion   = 1 // bits 0..1
	versionMask   = 3
	flagReply     = 1 << 2
	flagNeedReply = 1 << 3
)

const (
	headerSize = 12 // request, flags, payload size: le32 each
	// MaxFDs is how many descriptors one message carries at most: one per region of SET_MEM_TABLE.
	MaxFDs = 8
	// maxPayload is more than any message here needs.
	maxPayload = 4096

	regionSize    = 32
	vringBadFD    = 1 << 8 // "invalid FD" flag of SET_VRING_KICK, CALL and ERR
	vringIndex    = 0xff
	memTableSlots = 8
)

// ErrMessage is wrapped by errors about messages that are not what the protocol says.
var ErrMessage = errors.New("malformed vhost-user message")

// Header is what each message begins with.
type Header struct {
	Request Request
	Flags   uint32
	Size    uint32 // bytes of payload
}

// DecodeHeader reads and checks a header.
func DecodeHeader(b []byte) (Header, error) {
	if len(b) < headerSize {
		return Header{}, fmt.Errorf("%w: header of %d bytes", ErrMessage, len(b))
	}
	h := Header{
		Request: Request(binary.LittleEndian.Uint32(b)), Flags: binary.LittleEndian.Uint32(b[4:]), Size: binary.LittleEndian.Uint32(b[8:]),
	}
	if h.Flags&versionMask != flagVersion {
		return h, fmt.Errorf("%w: %v has protocol version %d, want 1", ErrMessage, h.Request, h.Flags&versionMask)
	}
	if h.Size > maxPayload {
		return h, fmt.Errorf("%w: %v has a payload of %d bytes, at most %d are possible", ErrMessage, h.Request, h.Size, maxPayload)
	}
	return h, nil
}

func appendReply(b []byte, r Request, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(r))
	b = binary.LittleEndian.AppendUint32(b, flagVersion|flagReply)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// Message is a message of a front-end.
type Message struct {
	Header
	Payload []byte
	FDs     []int // belong to whoever takes them by TakeFD; the session closes the rest
}

// TakeFD hands over the message's only descriptor.
func (m *Message) TakeFD() (int, error) {
	if len(m.FDs) != 1 {
		return -1, fmt.Errorf("%w: %v comes with %d descriptors, want 1", ErrMessage, m.Request, len(m.FDs))
	}
	fd := m.FDs[0]
	m.FDs = nil
	return fd, nil
}

func (m *Message) size(want int) error {
	if len(m.Payload) != want {
		return fmt.Errorf("%w: %v has %d bytes, want %d", ErrMessage, m.Request, len(m.Payload), want)
	}
	return nil
}

// Uint64 decodes a payload that is one number.
func (m *Message) Uint64() (uint64, error) {
	if err := m.size(8); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(m.Payload), nil
}

// VringState decodes {index, num}.
func (m *Message) VringState() (index, num uint32, err error) {
	if err := m.size(8); err != nil {
		return 0, 0, err
	}
	return binary.LittleEndian.Uint32(m.Payload), binary.LittleEndian.Uint32(m.Payload[4:]), nil
}

// vringFD decodes the payload of SET_VRING_KICK, CALL and ERR; fd is -1 if none is passed.
func (m *Message) vringFD() (index uint32, fd int, err error) {
	v, err := m.Uint64()
	if err != nil {
		return 0, -1, err
	}
	index = uint32(v & vringIndex)
	if v&vringBadFD != 0 {
		return index, -1, nil
	}
	fd, err = m.TakeFD()
	return index, fd, err
}
