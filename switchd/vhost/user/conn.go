package user

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost"
)

// messageTimeout is how long a front-end may take from the first byte of a message to the last, or to take a reply.
const messageTimeout = 5 * time.Second

// conn reads and writes messages on a socket.
type conn struct {
	socket *net.UnixConn
	out    []byte
}

// receive reads one message. The descriptors that came with it are the message's, also when err is not nil.
func (c *conn) receive() (*Message, error) {
	m := &Message{}
	var header [headerSize]byte
	if err := c.socket.SetReadDeadline(time.Time{}); err != nil {
		return m, err
	}
	for n := 0; n < headerSize; {
		part, err := c.receivePart(m, header[n:])
		if err != nil {
			if n > 0 && errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: connection closed after %d bytes of a header", ErrMessage, n)
			}
			return m, err
		}
		if n == 0 {
			if err := c.socket.SetReadDeadline(time.Now().Add(messageTimeout)); err != nil {
				return m, err
			}
		}
		n += part
	}
	var err error
	if m.Header, err = DecodeHeader(header[:]); err != nil {
		return m, err
	}
	m.Payload = make([]byte, m.Size)
	for n := 0; n < len(m.Payload); {
		part, err := c.receivePart(m, m.Payload[n:])
		if err != nil {
			return m, fmt.Errorf("%w: %v: got %d of %d payload bytes: %w", ErrMessage, m.Request, n, m.Size, err)
		}
		n += part
	}
	return m, nil
}

// receivePart reads some bytes and whatever descriptors come with them.
func (c *conn) receivePart(m *Message, b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(MaxFDs*4))
	n, oobn, flags, _, err := c.socket.ReadMsgUnix(b, oob)
	if oobn > 0 {
		if err := m.addFDs(oob[:oobn]); err != nil {
			return 0, err
		}
	}
	if err != nil {
		return 0, err
	}
	if flags&unix.MSG_CTRUNC != 0 || len(m.FDs) > MaxFDs {
		return 0, fmt.Errorf("%w: more than %d descriptors", ErrMessage, MaxFDs)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (m *Message) addFDs(oob []byte) error {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("%w: control data: %w", ErrMessage, err)
	}
	for _, cm := range list {
		if cm.Header.Level != unix.SOL_SOCKET || cm.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&cm)
		if err != nil {
			return fmt.Errorf("%w: descriptors: %w", ErrMessage, err)
		}
		m.FDs = append(m.FDs, fds...)
	}
	return nil
}

// reply sends the answer to a request.
func (c *conn) reply(r Request, payload []byte) error {
	c.out = appendReply(c.out[:0], r, payload)
	if err := c.socket.SetWriteDeadline(time.Now().Add(messageTimeout)); err != nil {
		return err
	}
	if _, err := c.socket.Write(c.out); err != nil {
		return fmt.Errorf("answering %v: %w", r, err)
	}
	return nil
}

// closeFDs closes what nobody took.
func (m *Message) closeFDs() {
	vhost.CloseFDs(m.FDs...)
	m.FDs = nil
}
