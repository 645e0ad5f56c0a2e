package cuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/unixsocket"
	"vhostkit/switchd/vhost"
)

// Config describes a character device.
type Config struct {
	Name    string            // the device is /dev/NAME
	Access  unixsocket.Access // group and mode of the node
	Switch  vhost.Switch
	Options vhost.Options
	Log     *slog.Logger
	Budget  *budget.Budget // counts what callers take; nil: nothing is counted
}

func (c Config) path() string { return "/dev/" + c.Name }

// deviceName is what a device may be called.
var deviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// ValidName tells whether a device can have that name.
func ValidName(name string) bool { return deviceName.MatchString(name) }

// maxSessions bounds how often a device may be open at a time: switchd hands descriptors to processes that it need not trust.
const maxSessions = 4096

// Server is a character device. Each open is a vhost device.
type Server struct {
	config   Config
	channel  Channel
	log      *slog.Logger
	sessions map[uint64]*session // by file handle; the goroutine of Serve's
	last     uint64              // file handle
	refused  int                 // opens, for want of budget
	running  sync.WaitGroup
	node     *node // nil: none to look after
	number   uint64
	done     chan struct{}
}

// Open makes the device /dev/NAME, in place of a stale node. A name that is in use is an error. The device is answered from Serve on; until
// then opening it waits.
func Open(c Config) (*Server, error) {
	if !ValidName(c.Name) {
		return nil, fmt.Errorf("device name %q: want 1 to 63 letters, digits, '.', '_' and '-'", c.Name)
	}
	n := nodeOf(c.Name)
	if err := n.prepare(); err != nil {
		return nil, err
	}
	channel, err := openChannel()
	if err != nil {
		return nil, err
	}
	s, err := start(c, channel)
	if err != nil {
		channel.Close()
		return nil, err
	}
	err = n.publish(c.Access)
	leave := errors.Is(err, unix.EPERM) && n.there()
	if leave {
		s.log.Warn("access to the device is left to udev: switchd may not set it (it takes CAP_CHOWN and CAP_FOWNER)", "error", err)
	} else if err != nil {
		channel.Close()
		return nil, err
	}
	s.number, err = n.number()
	if err != nil {
		channel.Close()
		return nil, err
	}
	s.node = &n
	if !leave {
		go n.keepPermitted(c.Access, s.done, s.log)
	}
	return s, nil
}

// start answers the kernel's first message, which makes the device.
func start(c Config, channel Channel) (*Server, error) {
	s := &Server{config: c, channel: channel, log: c.Log.With("device", c.path()), sessions: map[uint64]*session{}, done: make(chan struct{})}
	b := make([]byte, readSize)
	n, err := channel.Read(b)
	if err != nil {
		return nil, fmt.Errorf("making the device %s: CUSE does not begin: %w", c.path(), err)
	}
	h, body, err := decodeRequest(b[:n])
	if err != nil {
		return nil, err
	}
	answer, err := answerInit(h, body, c.Name)
	if err != nil {
		return nil, err
	}
	if _, err := channel.Write(answer); err != nil {
		return nil, fmt.Errorf("making the device %s: %w", c.path(), err)
	}
	return s, nil
}

// Close removes the device. Serve calls it, too.
func (s *Server) Close() {
	select {
	case <-s.done:
		return
	default:
	}
	close(s.done)
	s.channel.Close()
	if s.node != nil {
		s.node.remove(s.number)
	}
}

// Serve answers until ctx ends, then removes the device and returns when every vhost device is gone.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.channel.Close() })
	err := s.read(ctx)
	stop()
	for _, session := range s.sessions {
		close(session.jobs)
	}
	s.wait()
	s.Close()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// stopTimeout is how long the end of devices may take. One could hang in a file system that its owner serves.
const stopTimeout = 5 * time.Second

func (s *Server) wait() {
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(stopTimeout):
		s.log.Error("a device does not end; going on without it")
	}
}

// read hands each request to its session. It never waits for one: what a caller does must not hold up the others.
func (s *Server) read(ctx context.Context) error {
	b := make([]byte, readSize)
	for {
		n, err := s.channel.Read(b)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT) && ctx.Err() == nil:
			continue // ENOENT: the caller gave up while the request was copied
		case err != nil:
			return fmt.Errorf("device %s: the kernel has ended it: %w", s.config.path(), err)
		case n == 0:
			return fmt.Errorf("device %s: the kernel has ended it", s.config.path())
		}
		h, body, err := decodeRequest(b[:n])
		if err != nil {
			return fmt.Errorf("device %s: %w", s.config.path(), err)
		}
		if answer := s.dispatch(h, body); answer != nil {
			s.reply(answer)
		}
	}
}

// dispatch answers a request, or leaves that to its session.
func (s *Server) dispatch(h inHeader, body []byte) []byte {
	switch h.Opcode {
	case FUSE_OPEN:
		return s.open(h)
	case FUSE_IOCTL:
		return s.ioctl(h, body)
	case FUSE_RELEASE:
		return s.release(h, body)
	case FUSE_INTERRUPT: // nothing takes long enough to be worth interrupting; no answer is wanted
		return nil
	case FUSE_DESTROY:
		return answerError(h.Unique, 0)
	}
	return answerError(h.Unique, unix.ENOSYS)
}

func (s *Server) open(h inHeader) []byte {
	if len(s.sessions) >= maxSessions {
		s.log.Warn("the device is open too often", "pid", h.TID, "uid", h.UID, "limit", maxSessions)
		return answerError(h.Unique, unix.EBUSY)
	}
	var account *budget.Account
	if s.config.Budget != nil {
		account = s.config.Budget.Open(int(h.UID), false)
	}
	if err := account.Take(budget.Connections, 1); err != nil {
		account.Close()
		if s.refused++; s.refused <= maxRefusals {
			s.log.Warn("opening the device is refused", "pid", h.TID, "uid", h.UID, "error", err, "so_far", s.refused)
		}
		return answerError(h.Unique, unix.EBUSY)
	}
	s.last++
	session := newSession(s.config, account, s.reply)
	s.sessions[s.last] = session
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		session.run()
		account.Give(budget.Connections, 1)
		session.files.Finish()
	}()
	return answerOpen(h.Unique, s.last)
}

func (s *Server) ioctl(h inHeader, body []byte) []byte {
	in, err := decodeIoctl(body)
	if err != nil {
		s.log.Warn("ioctl refused", "pid", h.TID, "error", err)
		return answerError(h.Unique, unix.EIO)
	}
	session := s.sessions[in.Handle]
	if session == nil {
		return answerError(h.Unique, unix.EBADF)
	}
	in.Data = append([]byte(nil), in.Data...) // the buffer is used again
	select {
	case session.jobs <- job{h, in}:
		return nil
	default:
		return answerError(h.Unique, unix.EAGAIN)
	}
}

// release ends a session. Its caller does not wait: nobody is left who could use the file.
func (s *Server) release(h inHeader, body []byte) []byte {
	if len(body) < releaseInSize {
		return answerError(h.Unique, unix.EIO)
	}
	handle := handleOf(body)
	if session := s.sessions[handle]; session != nil {
		delete(s.sessions, handle)
		close(session.jobs)
	}
	return answerError(h.Unique, 0)
}

// reply sends an answer. Nobody wants it any more where that fails: the caller was killed, or the device removed.
func (s *Server) reply(answer []byte) {
	if _, err := s.channel.Write(answer); err != nil {
		s.log.Debug("answer not delivered", "error", err)
	}
}
