package vfiouser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn sends and receives whole messages with their descriptors.
type conn struct {
	socket   *net.UnixConn
	patience time.Duration // with a client that does not take its replies; 0: none is needed
	sendMu   sync.Mutex
	room     [maxMessage]byte
}

// receive gives the next message. The payload is valid until the next call; the descriptors are the caller's.
func (c *conn) receive() (h header, payload []byte, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	for got := 0; got < headerSize; {
		n, oobn, flags, _, err := c.socket.ReadMsgUnix(c.room[got:headerSize], oob)
		fds = append(fds, descriptors(oob[:oobn])...)
		switch {
		case err != nil:
			closeAll(fds)
			return h, nil, nil, err
		case n == 0:
			closeAll(fds)
			if got > 0 {
				return h, nil, nil, io.ErrUnexpectedEOF
			}
			return h, nil, nil, io.EOF
		case flags&unix.MSG_CTRUNC != 0 || len(fds) > maxFDs:
			closeAll(fds)
			return h, nil, nil, fmt.Errorf("%w: more than %d descriptors with a message", ErrProtocol, maxFDs)
		}
		got += n
	}
	if h, err = parseHeader(c.room[:]); err == nil {
		payload = c.room[headerSize:h.size]
		_, err = io.ReadFull(c.socket, payload)
	}
	if err != nil {
		closeAll(fds)
		return h, nil, nil, err
	}
	return h, payload, fds, nil
}

// reply answers a command, with an error number or a payload.
func (c *conn) reply(to header, payload []byte, failure error) error {
	if to.flags&flagNoReply != 0 {
		return nil
	}
	h := header{id: to.id, command: to.command, flags: typeReply}
	if failure != nil {
		h.flags |= flagError
		h.errno = uint32(errnoOf(failure))
		payload = nil
	}
	h.size = uint32(headerSize + len(payload))
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if c.patience > 0 {
		_ = c.socket.SetWriteDeadline(time.Now().Add(c.patience))
	}
	_, err := c.socket.Write(append(h.append(make([]byte, 0, h.size)), payload...))
	return err
}

func errnoOf(err error) syscall.Errno {
	var number syscall.Errno
	if errors.As(err, &number) && number != 0 {
		return number
	}
	return syscall.EINVAL
}

// descriptors are those in a control message. They are closed when this process executes another program.
func descriptors(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if rights, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, rights...)
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
