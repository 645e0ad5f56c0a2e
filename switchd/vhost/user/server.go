package user

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/unixsocket"
	"vhostkit/switchd/vhost"
)

// Config describes a socket.
type Config struct {
	Path    string
	Name    string            // of the named port that the socket is for; empty: shared
	Access  unixsocket.Access // who may connect
	Switch  vhost.Switch
	Options vhost.Options
	Journal *vhost.Journal // may be nil
	Log     *slog.Logger
	Budget  *budget.Budget // counts what front-ends take; nil: nothing is counted
	Tally   *Tally         // counts what comes to the socket; may be nil

	client bool // this end connects
}

// Server accepts front-ends on a socket. Each connection is a device.
type Server struct {
	listener *unixsocket.Listener
	door     *door
	sessions sync.WaitGroup
}

// Listen makes the socket. A socket file that nobody serves is replaced; one that is served, or anything that is no socket, is an error.
func Listen(c Config) (*Server, error) {
	l, err := unixsocket.Listen(c.Path, c.Access)
	if err != nil {
		return nil, err
	}
	return &Server{door: newDoor(c), listener: l}, nil
}

// Counts are what came to the socket so far.
func (s *Server) Counts() Counts { return s.door.tally.Counts() }

// Serve accepts until ctx ends, then removes the socket, closes every connection and returns when their devices are gone. One that does not
// end within seconds, because the kernel makes it wait for a foreigner, is left behind, and the log says so.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.listener.SetDeadline(time.Now()) })
	err := s.accept(ctx)
	stop()
	cancel()
	ended := make(chan struct{})
	go func() {
		s.listener.Close() // closes connections that nobody has accepted, and what lies in them
		s.sessions.Wait()
		close(ended)
	}()
	s.door.wait(ended)
	s.door.close()
	return err
}

// maxRest bounds the connections that wait to be closed of those who may have none. Where there are more, the next has to wait in the kernel.
const maxRest = 64

func (s *Server) accept(ctx context.Context) error {
	c := s.door.config
	for {
		for s.door.rest.Waiting() > maxRest {
			if !pause(ctx, 100*time.Millisecond) {
				return nil
			}
		}
		socket, err := s.listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("socket %s: %w", c.Path, err)
			}
			s.door.lines.once(c.Log.With("socket", c.Path), time.Now(), "accepting a connection", ReasonBudget, err)
			pause(ctx, 100*time.Millisecond) // out of descriptors, most likely
			continue
		}
		s.sessions.Add(1)
		go func() {
			defer s.sessions.Done()
			s.door.serve(ctx, socket)
		}()
	}
}

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Second
)

// Connect is the client mode: it connects to a front-end that listens on Path, serves it, and connects again whenever that ends, until ctx
// does. It waits longer from try to try, also when connections succeed but do not last.
func Connect(ctx context.Context, c Config) error {
	c.client = true
	d := newDoor(c)
	defer d.close()
	wait, complained := firstRetry, false
	for ctx.Err() == nil {
		socket, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.Path, Net: "unix"})
		if err == nil {
			since := time.Now()
			d.session(ctx, socket)
			complained = false
			if time.Since(since) > lastRetry {
				wait = firstRetry
			}
		} else if !complained {
			c.Log.Warn("nobody listens on the socket yet; trying again until somebody does", "socket", c.Path, "error", err)
			complained = true
		}
		pause(ctx, wait)
		wait = min(2*wait, lastRetry)
	}
	return nil
}

// session serves a connection, and returns when it has ended, or does not although ctx has.
func (d *door) session(ctx context.Context, socket *net.UnixConn) {
	ended := make(chan struct{})
	go func() {
		d.serve(ctx, socket)
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		d.wait(ended)
	}
}

// stopTimeout is how long the end of the sessions may take.
const stopTimeout = 3 * time.Second

// wait waits until the sessions have ended, but not for ever.
func (d *door) wait(ended <-chan struct{}) {
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-ended:
	case <-timeout.C:
		d.config.Log.Error("connections do not end, and are left behind", "socket", d.config.Path, "waiting", d.pending())
	}
}
