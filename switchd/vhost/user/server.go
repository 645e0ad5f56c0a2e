package user

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

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
}

// Server accepts front-ends on a socket. Each connection is a device.
type Server struct {
	config   Config
	listener *unixsocket.Listener
	sessions sync.WaitGroup
}

// Listen makes the socket. A socket file that nobody serves is replaced; one that is served, or anything that is no socket, is an error.
func Listen(c Config) (*Server, error) {
	l, err := unixsocket.Listen(c.Path, c.Access)
	if err != nil {
		return nil, err
	}
	return &Server{config: c, listener: l}, nil
}

// Serve accepts until ctx ends, then removes the socket, closes every connection and returns when their devices are gone.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer func() {
		stop()
		s.listener.Close()
		cancel()
		s.sessions.Wait()
	}()
	for {
		socket, err := s.listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("socket %s: %w", s.config.Path, err)
			}
			s.config.Log.Warn("accepting a connection", "socket", s.config.Path, "error", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		s.sessions.Add(1)
		go func() {
			defer s.sessions.Done()
			serve(ctx, socket, s.config)
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
	wait, complained := firstRetry, false
	for ctx.Err() == nil {
		socket, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.Path, Net: "unix"})
		if err == nil {
			since := time.Now()
			serve(ctx, socket, c)
			complained = false
			if time.Since(since) > lastRetry {
				wait = firstRetry
			}
		} else if !complained {
			c.Log.Warn("nobody listens on the socket yet; trying again until somebody does", "socket", c.Path, "error", err)
			complained = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRetry)
	}
	return nil
}
