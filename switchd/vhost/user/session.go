package user

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/vhost"
	"vhostkit/switchd/virtio"
)

// session is a device and the messages that drive it.
type session struct {
	visit      *visit
	conn       *conn
	device     *vhost.Device
	protocol   uint64 // negotiated protocol features
	backendReq int    // descriptor of SET_BACKEND_REQ_FD, -1 before
	refusals   int    // requests refused so far
	log        *slog.Logger
}

// firstMessage is how long a front-end may be connected before it says something. It has no port before that, but it is counted, and has the
// place of a named port. QEMU speaks as soon as it has the character device and the network device that uses it, which come in one start,
// or one after the other from libvirt: milliseconds, of which a machine that is busy may make seconds.
const firstMessage = 10 * time.Second

// errGone: the front-end closed the connection.
var errGone = io.EOF

// stay waits for the first message, plugs the connection into the switch, and handles its messages until it closes, the data plane stops the
// device, or ctx ends. An error comes with its reason.
func (v *visit) stay(ctx context.Context) (Reason, error) {
	stop := context.AfterFunc(ctx, func() { v.conn.shut(unix.SHUT_RDWR) })
	defer stop()
	first := &Message{}
	if !v.door.config.client {
		v.note("waits, as it came and went too often")
		if !pause(ctx, v.door.paces.wait(v.peer, time.Now())) {
			return "", ctx.Err()
		}
		v.note("waits for the first message")
		var err error
		first, err = v.conn.receive(time.Now().Add(firstMessage))
		if errors.Is(err, os.ErrDeadlineExceeded) && len(first.FDs) == 0 && first.Header == (Header{}) {
			return ReasonSilent, fmt.Errorf("the front-end said nothing for %v after it had connected", firstMessage)
		}
		if err != nil {
			v.conn.files.Close(first.FDs...)
			return reasonOf(err), err
		}
	}
	port, reason, err := v.plug()
	if err != nil {
		v.conn.files.Close(first.FDs...)
		return reason, err
	}
	defer v.conn.files.Account().Give(budget.Ports, 1)
	err = v.run(ctx, port, first)
	return reasonOf(err), err
}

// orderly tells whether the front-end went away by itself.
func orderly(err error) bool {
	return err == nil || errors.Is(err, errGone) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// reasonOf tells a front-end's fault from a bound that it met.
func reasonOf(err error) Reason {
	var exceeded *budget.ExceededError
	if errors.As(err, &exceeded) {
		return ReasonBudget
	}
	return ReasonFailed
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// plug gets a port.
func (v *visit) plug() (vhost.Port, Reason, error) {
	c, a := v.door.config, v.conn.files.Account()
	if err := a.Take(budget.Ports, 1); err != nil {
		return nil, ReasonBudget, err
	}
	v.note("gets a port")
	port, err := c.Switch.Connect(vhost.Connection{Socket: c.Path, Name: c.Name, Transport: "vhost-user", Peer: v.peer, Fail: v.fail})
	if err != nil {
		a.Give(budget.Ports, 1)
		return nil, ReasonNoPort, err
	}
	v.device = true
	v.door.tally.device()
	v.log = v.log.With("port", port.ID())
	v.door.lines.info(v.log, time.Now(), "device connected")
	return port, "", nil
}

// fail ends the session from the data plane's side. The front-end is not told yet: it would connect again at once.
func (v *visit) fail(err error) {
	v.failure.CompareAndSwap(nil, &err)
	v.conn.shut(unix.SHUT_RD) // ends receive
}

// run handles messages, the first of which has been read. errGone is the orderly end.
func (v *visit) run(ctx context.Context, port vhost.Port, m *Message) error {
	options := v.door.config.Options
	options.Files = v.conn.files
	s := &session{visit: v, conn: &v.conn, device: vhost.NewDevice(options, port, v.door.config.Journal, v.log), backendReq: -1, log: v.log}
	err := s.messages(ctx, m)
	if reason := v.failure.Load(); reason != nil {
		err = *reason
	}
	v.note("closes its device")
	s.device.Close(ctx.Err() != nil)
	v.conn.files.Close(s.backendReq)
	if ctx.Err() == nil && !orderly(err) {
		port.Stopped(err)
	}
	return err
}

func (s *session) messages(ctx context.Context, m *Message) (err error) {
	for {
		if m.Flags != 0 { // in client mode none has been read yet
			s.visit.note("handles " + m.Request.String())
			err = s.handle(m)
		}
		s.conn.files.Close(m.FDs...)
		if err == nil {
			err = s.conn.files.Err()
		}
		if err != nil || ctx.Err() != nil || s.visit.failure.Load() != nil {
			return err
		}
		s.visit.note("reads a message, or the kernel closes descriptors that do not belong to it")
		if m, err = s.conn.receive(time.Time{}); err != nil {
			s.conn.files.Close(m.FDs...)
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
	if s.refusals++; s.refusals > maxRefusals || !s.visit.door.lines.allow(s.log, time.Now()) {
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
	s.conn.files.Close(s.backendReq)
	s.backendReq = fd
	return nil, nil
}
