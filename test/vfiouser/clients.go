package vfiouser

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// limits are what a client may cost the others.
type limits struct {
	clients int           // connections at a time; one more ends that of the client that was silent longest
	write   time.Duration // for a client to take a reply
	silent  time.Duration // after which a client loses the device to another one that wants it. Drivers look at their card every few seconds.
	claim   time.Duration // for a client to wait for the device; QEMU waits 5 s for a reply
}

var defaultLimits = limits{clients: 64, write: 5 * time.Second, silent: 30 * time.Second, claim: 3 * time.Second}

// errSilent ends the connection of a client that others need to be gone.
var errSilent = errors.New("the client was silent, and another one came")

// clients are the connections, and which of them has the device.
type clients struct {
	mu    sync.Mutex
	all   []*session
	owner *session
	left  chan struct{} // closed when the owner has given the device back
}

// session is one client's.
type session struct {
	*Server
	conn    *conn
	memory  Memory
	vectors *vectors
	greeted bool
	heard   atomic.Int64 // when its last message came, in nanoseconds of the wall clock
	dropped atomic.Bool
}

func (x *session) silence() time.Duration { return time.Since(time.Unix(0, x.heard.Load())) }

// drop ends the connection. The session's own goroutine clears up.
func (x *session) drop() {
	x.dropped.Store(true)
	_ = x.conn.socket.Close()
}

// join makes a session of a connection. Where there are too many, the one that was silent longest and does not have the device has to go.
func (s *Server) join(c *conn) *session {
	x := &session{Server: s, conn: c, vectors: newVectors(s.layout.Vectors)}
	x.heard.Store(time.Now().UnixNano())
	s.clients.mu.Lock()
	defer s.clients.mu.Unlock()
	s.clients.all = append(s.clients.all, x)
	if len(s.clients.all) <= s.limits.clients {
		return x
	}
	oldest := slices.MinFunc(s.clients.all[:len(s.clients.all)-1], func(a, b *session) int {
		switch s.clients.owner {
		case a:
			return 1
		case b:
			return -1
		}
		return cmp.Compare(a.heard.Load(), b.heard.Load())
	})
	s.clients.all = slices.DeleteFunc(s.clients.all, func(c *session) bool { return c == oldest })
	oldest.drop()
	return x
}

// leave gives back what the session has. The next one finds the device reset.
func (x *session) leave() {
	s := x.Server
	s.clients.mu.Lock()
	s.clients.all = slices.DeleteFunc(s.clients.all, func(c *session) bool { return c == x })
	owned := s.clients.owner == x
	s.clients.mu.Unlock()
	if owned {
		s.device.SetInterrupt(nil)
		s.device.SetMemory(nil)
		s.device.Reset()
	}
	x.vectors.close()
	x.memory.close()
	if owned {
		s.clients.mu.Lock()
		s.clients.owner = nil
		close(s.clients.left)
		s.clients.mu.Unlock()
	}
}

// claim makes the device the session's, with the first command that needs it. A client that has it and uses it keeps it; one that is silent for
// too long loses it.
func (x *session) claim() error {
	s := x.Server
	for end := time.Now().Add(s.limits.claim); ; {
		owner, left := s.take(x)
		if owner == x {
			return nil
		}
		rest, silent := time.Until(end), s.limits.silent-owner.silence()
		switch {
		case rest <= 0:
			return fmt.Errorf("the device is another client's, which was last heard of %v ago: %w", owner.silence().Round(time.Millisecond), unix.EBUSY)
		case silent <= 0:
			owner.drop()
			silent = rest
		}
		select {
		case <-left:
		case <-time.After(min(rest, silent)):
		}
	}
}

// take gives the device to the session if it is nobody's, and tells whose it is.
func (s *Server) take(x *session) (owner *session, left <-chan struct{}) {
	s.clients.mu.Lock()
	defer s.clients.mu.Unlock()
	if s.clients.owner == nil {
		s.clients.owner, s.clients.left = x, make(chan struct{})
		s.device.SetMemory(&x.memory)
		s.device.SetInterrupt(x.vectors.trigger)
	}
	return s.clients.owner, s.clients.left
}

// needsDevice tells commands that are about the device itself from those that only describe it, which every client is told at any time.
func needsDevice(command uint16) bool {
	switch command {
	case VFIO_USER_DMA_MAP, VFIO_USER_DMA_UNMAP, VFIO_USER_DEVICE_SET_IRQS, VFIO_USER_REGION_READ, VFIO_USER_REGION_WRITE, VFIO_USER_DEVICE_RESET:
		return true
	}
	return false
}
