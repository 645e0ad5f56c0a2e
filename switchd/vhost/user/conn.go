package user

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/foreign"
)

// messageTimeout is how long a front-end may take from the first byte of a message to the last, or to take a reply.
const messageTimeout = 5 * time.Second

// conn reads and writes messages on a socket, and counts the descriptors that come.
type conn struct {
	socket *net.UnixConn
	files  *foreign.Files
	own    uint64 // descriptors that files have counted for the socket: 1, or 0 where it may have nothing
	out    []byte
}

// receive reads one message, which has to begin before the deadline; the zero time is none. The descriptors that came with it are the
// message's, also when err is not nil.
func (c *conn) receive(deadline time.Time) (*Message, error) {
	m := &Message{}
	var header [headerSize]byte
	if err := c.socket.SetReadDeadline(deadline); err != nil {
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

// errOutOfDescriptors: the kernel hands over fewer descriptors than there are where this process can have no more, or a security module
// forbids it. It is not the front-end's fault.
var errOutOfDescriptors = errors.New("the kernel could not hand over a descriptor of this message: switchd has as many as it may, or a " +
	"security module forbids it; raise LimitNOFILE= of its unit (ulimit -n), and look at the audit log")

// receivePart reads some bytes and whatever descriptors come with them.
func (c *conn) receivePart(m *Message, b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(MaxFDs*4))
	n, oobn, flags, err := c.recvmsg(b, oob)
	if err != nil {
		return 0, err
	}
	before := len(m.FDs)
	err = m.addFDs(oob[:oobn])
	came := len(m.FDs) - before
	c.files.Account().Give(budget.Descriptors, uint64(MaxFDs-came))
	switch {
	case err != nil:
		return 0, err
	case flags&unix.MSG_CTRUNC != 0 && came < MaxFDs:
		return 0, errOutOfDescriptors
	case flags&unix.MSG_CTRUNC != 0 || len(m.FDs) > MaxFDs:
		return 0, fmt.Errorf("%w: more than %d descriptors", ErrMessage, MaxFDs)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// recvmsg waits until there is something to read. Then, before it is read, as many descriptors are counted as may come with it. What does not
// fit in, the kernel closes in the thread that reads, however long that takes: in that case the session hangs, which nobody waits for, and
// its connection stays counted.
func (c *conn) recvmsg(b, oob []byte) (n, oobn, flags int, err error) {
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return 0, 0, 0, err
	}
	ended := raw.Read(func(fd uintptr) bool {
		if err = c.files.Account().Take(budget.Descriptors, MaxFDs); err != nil {
			return true
		}
		for {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if err != nil {
			c.files.Account().Give(budget.Descriptors, MaxFDs)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if ended != nil {
		err = ended
	}
	return n, oobn, flags, err
}

// shut has the session's read end. What the front-end has sent stays where it is.
func (c *conn) shut(how int) {
	if raw, err := c.socket.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), how) })
	}
}

// close closes the socket. Descriptors that lie in it unread are closed with it, and may take long: then it is not this goroutine that does
// it.
func (c *conn) close() {
	c.shut(unix.SHUT_RDWR) // from here on nothing more can come
	unread := 0
	if raw, err := c.socket.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { unread, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	if unread > 0 {
		c.files.Later(c.own, func() { c.socket.Close() })
		return
	}
	c.socket.Close()
	c.files.Account().Give(budget.Descriptors, c.own)
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
