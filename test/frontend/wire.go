package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost/user"
)

const (
	version   = 1
	needReply = 1 << 3
	timeout   = 5 * time.Second
)

// Wire is the message side of a front-end.
type Wire struct {
	Conn *net.UnixConn
	Ack  bool // REPLY_ACK was negotiated: every request is acknowledged
}

// ErrRefused says that the back-end acknowledged a request with an error.
var ErrRefused = errors.New("back-end refused the request")

// Raw sends bytes and descriptors as they are.
func (w *Wire) Raw(b []byte, fds ...int) error {
	_ = w.Conn.SetWriteDeadline(time.Now().Add(timeout))
	_, _, err := w.Conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	return err
}

// Message makes a request's bytes.
func Message(r user.Request, flags uint32, payload []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(r))
	b = binary.LittleEndian.AppendUint32(b, version|flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// Tell sends a request that has no answer of its own, and waits for the acknowledgement if there is one.
func (w *Wire) Tell(r user.Request, payload []byte, fds ...int) error {
	flags := uint32(0)
	if w.Ack {
		flags = needReply
	}
	if err := w.Raw(Message(r, flags, payload), fds...); err != nil {
		return fmt.Errorf("%v: %w", r, err)
	}
	if !w.Ack {
		return nil
	}
	answer, err := w.answer(r)
	if err != nil {
		return err
	}
	if len(answer) != 8 || binary.LittleEndian.Uint64(answer) != 0 {
		return fmt.Errorf("%w: %v", ErrRefused, r)
	}
	return nil
}

// Ask sends a request and returns its answer.
func (w *Wire) Ask(r user.Request, payload []byte) ([]byte, error) {
	if err := w.Raw(Message(r, 0, payload)); err != nil {
		return nil, fmt.Errorf("%v: %w", r, err)
	}
	return w.answer(r)
}

func (w *Wire) answer(r user.Request) ([]byte, error) {
	_ = w.Conn.SetReadDeadline(time.Now().Add(timeout))
	var header [12]byte
	if _, err := io.ReadFull(w.Conn, header[:]); err != nil {
		return nil, fmt.Errorf("answer to %v: %w", r, err)
	}
	if got := user.Request(binary.LittleEndian.Uint32(header[:])); got != r {
		return nil, fmt.Errorf("answer to %v is of type %v", r, got)
	}
	payload := make([]byte, binary.LittleEndian.Uint32(header[8:]))
	if _, err := io.ReadFull(w.Conn, payload); err != nil {
		return nil, fmt.Errorf("answer to %v: %w", r, err)
	}
	return payload, nil
}

// U64 makes a payload of one number.
func U64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// U32s makes a payload of 32-bit numbers.
func U32s(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}
