package user

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost"
	"vhostkit/switchd/virtio"
)

// session is one connection: a device and the messages that drive it.
type session struct {
	conn       conn
	device     *vhost.Device
	protocol   uint64 // negotiated protocol features
	backendReq int    // descriptor of SET_BACKEND_REQ_FD, -1 before
	refusals   int    // requests refused so far
	log        *slog.Logger
}

// serve plugs a connection into the switch and handles its messages until it closes, the data plane stops the device, or ctx ends.
func serve(ctx context.Context, socket *net.UnixConn, c Config) {
	defer socket.Close()
	peer := peerOf(socket)
	log := c.Log.With("socket", c.Path, "pid", peer.PID, "uid", peer.UID, "comm", peer.Comm)
	var failure atomic.Pointer[error]
	fail := func(err error) {
		failure.CompareAndSwap(nil, &err)
		socket.Close() // ends the read below
	}
	port, err := c.Switch.Connect(vhost.Connection{Socket: c.Path, Name: c.Name, Transport: "vhost-user", Peer: peer, Fail: fail})
	if err != nil {
		log.Error("connection refused", "error", err)
		return
	}
	log = log.With("port", port.ID())
	log.Info("device connected")
	s := &session{conn: conn{socket: socket}, device: vhost.NewDevice(c.Options, port, c.Journal, log), backendReq: -1, log: log}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	err = s.run()
	stop()
	if reason := failure.Load(); reason != nil {
		err = *reason
	}
	s.device.Close(ctx.Err() != nil)
	vhost.CloseFDs(s.backendReq)
	switch {
	case err == nil, errors.Is(err, io.EOF), ctx.Err() != nil:
		log.Info("device disconnected")
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		log.Info("device disconnected", "error", err)
	default:
		log.Error("device stopped; the other ports are not affected", "error", err)
		port.Stopped(err)
	}
}

// run handles messages. io.EOF is the orderly end.
func (s *session) run() error {
	for {
		m, err := s.conn.receive()
		if err == nil {
			err = s.handle(m)
		}
		m.closeFDs()
		if err != nil {
			return err
		}
	}
}

// handle carries out one message and answers it. A front-end that asked for an acknowledgement gets one also for the request that ends its
// connection.
func (s *session) handle(m *Message) error {
	s.log.Debug("message", "request", m.Request.String(), "bytes", len(m.Payload), "fds", len(m.FDs))
	h, known := handlers[m.Request]
	if !known {
		err := fmt.Errorf("%w: unknown", vhost.ErrRefused)
		s.refused(m, err)
		return s.acknowledge(m, err)
	}
	answer, err := h(s, m)
	if err == nil {
		err = s.device.Refresh()
	}
	if err == nil && answer != nil {
		return s.conn.reply(m.Request, answer)
	}
	ackErr := s.acknowledge(m, err)
	if err == nil {
		err = ackErr
	}
	if errors.Is(err, vhost.ErrRefused) {
		s.refused(m, err)
		return ackErr
	}
	if err != nil && !errors.Is(err, ErrMessage) {
		err = fmt.Errorf("%v: %w", m.Request, err)
	}
	return err
}

// maxRefusals bounds how much a front-end can make a session log about requests that it refuses.
const maxRefusals = 16

func (s *session) refused(m *Message, err error) {
	level := slog.LevelWarn
	if s.refusals++; s.refusals > maxRefusals {
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, "request refused", "request", m.Request.String(), "error", err)
	if s.refusals == maxRefusals {
		s.log.Warn("further requests of this device are refused without a line in the log")
	}
}

// acknowledge answers a request that has no answer of its own, if REPLY_ACK was negotiated and the front-end wants it: 0 is success.
func (s *session) acknowledge(m *Message, err error) error {
	if m.Flags&flagNeedReply == 0 || s.protocol>>VHOST_USER_PROTOCOL_F_REPLY_ACK&1 == 0 {
		return nil
	}
	result := uint64(0)
	if err != nil {
		result = 1
	}
	return s.conn.reply(m.Request, u64(result))
}

func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// handler carries out a request; answer is the payload of the reply that the request always has, or nil.
type handler func(s *session, m *Message) (answer []byte, err error)

var handlers = map[Request]handler{
	VHOST_USER_GET_FEATURES:          func(s *session, _ *Message) ([]byte, error) { return u64(uint64(s.device.Features())), nil },
	VHOST_USER_GET_PROTOCOL_FEATURES: func(*session, *Message) ([]byte, error) { return u64(OfferedProtocolFeatures), nil },
	VHOST_USER_GET_QUEUE_NUM:         func(s *session, _ *Message) ([]byte, error) { return u64(uint64(s.device.QueuePairs())), nil },
	VHOST_USER_GET_MAX_MEM_SLOTS:     func(*session, *Message) ([]byte, error) { return u64(vhost.MaxMemorySlots), nil },
	VHOST_USER_GET_STATUS:            func(s *session, _ *Message) ([]byte, error) { return u64(uint64(s.device.Status())), nil },
	VHOST_USER_SET_OWNER:             func(*session, *Message) ([]byte, error) { return nil, nil },
	VHOST_USER_RESET_OWNER:           func(s *session, _ *Message) ([]byte, error) { s.device.Reset(); return nil, nil },
	VHOST_USER_RESET_DEVICE:          func(s *session, _ *Message) ([]byte, error) { s.device.Reset(); return nil, nil },
	VHOST_USER_SET_FEATURES: number(func(s *session, v uint64) error {
		return s.device.SetFeatures(virtio.Features(v))
	}),
	VHOST_USER_SET_PROTOCOL_FEATURES: number((*session).setProtocolFeatures),
	VHOST_USER_SET_STATUS: number(func(s *session, v uint64) error {
		if v > 0xff {
			return fmt.Errorf("%w: status %#x", ErrMessage, v)
		}
		s.device.SetStatus(uint8(v))
		return nil
	}),
	VHOST_USER_NET_SET_MTU:        number(func(s *session, v uint64) error { return s.device.SetMTU(v) }),
	VHOST_USER_SET_MEM_TABLE:      (*session).setMemTable,
	VHOST_USER_ADD_MEM_REG:        (*session).addRegion,
	VHOST_USER_REM_MEM_REG:        (*session).removeRegion,
	VHOST_USER_SEND_RARP:          (*session).sendRARP,
	VHOST_USER_SET_BACKEND_REQ_FD: (*session).setBackendRequestFD,

	VHOST_USER_SET_VRING_NUM: state(func(s *session, index, n uint32) error { return s.device.SetVringNum(index, n) }),
	VHOST_USER_SET_VRING_BASE: state(func(s *session, index, n uint32) error {
		return s.device.SetVringBase(index, n)
	}),
	VHOST_USER_SET_VRING_ENABLE: state(func(s *session, index, n uint32) error {
		if n > 1 {
			return fmt.Errorf("%w: SET_VRING_ENABLE %d, want 0 or 1", ErrMessage, n)
		}
		return s.device.SetVringEnable(index, n == 1)
	}),
	VHOST_USER_GET_VRING_BASE: (*session).vringBase,
	VHOST_USER_SET_VRING_ADDR: (*session).setVringAddr,
	VHOST_USER_SET_VRING_KICK: descriptor((*vhost.Device).SetVringKick),
	VHOST_USER_SET_VRING_CALL: descriptor((*vhost.Device).SetVringCall),
	VHOST_USER_SET_VRING_ERR:  descriptor((*vhost.Device).SetVringErr),
}

// number makes a handler for a payload that is one 64-bit number.
func number(f func(*session, uint64) error) handler {
	return func(s *session, m *Message) ([]byte, error) {
		v, err := m.Uint64()
		if err != nil {
			return nil, err
		}
		return nil, f(s, v)
	}
}

// state makes a handler for a payload of a vring index and a number.
func state(f func(s *session, index, num uint32) error) handler {
	return func(s *session, m *Message) ([]byte, error) {
		index, num, err := m.VringState()
		if err != nil {
			return nil, err
		}
		return nil, f(s, index, num)
	}
}

// descriptor makes a handler for a vring's eventfd.
func descriptor(f func(d *vhost.Device, index uint32, fd int) error) handler {
	return func(s *session, m *Message) ([]byte, error) {
		index, fd, err := m.vringFD()
		if err != nil {
			return nil, err
		}
		return nil, f(s.device, index, fd)
	}
}

func (s *session) setProtocolFeatures(v uint64) error {
	if extra := v &^ OfferedProtocolFeatures; extra != 0 {
		return fmt.Errorf("%v were not offered", ProtocolFeatureNames(extra))
	}
	s.protocol = v
	s.device.SetProtocolFeatures(v)
	return nil
}

func (s *session) vringBase(m *Message) ([]byte, error) {
	index, _, err := m.VringState()
	if err != nil {
		return nil, err
	}
	base, err := s.device.VringBase(index)
	if err != nil {
		return nil, err
	}
	answer := binary.LittleEndian.AppendUint32(nil, index)
	return binary.LittleEndian.AppendUint32(answer, base), nil
}

// setVringAddr decodes {le32 index, le32 flags, le64 descriptor, used, available, log}.
func (s *session) setVringAddr(m *Message) ([]byte, error) {
	if err := m.size(40); err != nil {
		return nil, err
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(m.Payload[i:]) }
	return nil, s.device.SetVringAddr(binary.LittleEndian.Uint32(m.Payload), vhost.RingAddresses{Desc: at(8), Used: at(16), Avail: at(24)})
}

// sendRARP: the address is the first six bytes of the payload.
func (s *session) sendRARP(m *Message) ([]byte, error) {
	if err := m.size(8); err != nil {
		return nil, err
	}
	s.device.Announce([6]byte(m.Payload[:6]))
	return nil, nil
}

func (s *session) setBackendRequestFD(m *Message) ([]byte, error) {
	fd, err := m.TakeFD()
	if err != nil {
		return nil, err
	}
	vhost.CloseFDs(s.backendReq)
	s.backendReq = fd
	return nil, nil
}

// peerOf asks the kernel who is at the other end.
func peerOf(socket *net.UnixConn) vhost.Peer {
	peer := vhost.Peer{PID: -1, UID: -1, GID: -1}
	raw, err := socket.SyscallConn()
	if err != nil {
		return peer
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			peer.PID, peer.UID, peer.GID = int(cred.Pid), int(cred.Uid), int(cred.Gid)
		}
	})
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", peer.PID)); err == nil {
		peer.Comm = strings.TrimSpace(string(comm))
	}
	return peer
}
