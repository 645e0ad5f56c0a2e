package control_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/control"
)

// exhausted is a listener of a process that is out of descriptors; the third try ends it.
type exhausted struct {
	net.Listener
	tries int
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.tries++; l.tries > 2 {
		return nil, net.ErrClosed
	}
	return nil, unix.EMFILE
}

func (l *exhausted) Addr() net.Addr { return &net.UnixAddr{Name: "/run/c.sock", Net: "unix"} }

func (l *exhausted) Close() error { return nil }

// TestAcceptErrorsHaveASocket: net/http's complaints name the socket, so that its budget of lines bounds them.
func TestAcceptErrorsHaveASocket(t *testing.T) {
	var log bytes.Buffer
	server := control.NewServer(&exhausted{}, &fakeBackend{}, slog.New(slog.NewTextHandler(&log, nil)))
	if err := server.Serve(context.Background()); err == nil {
		t.Error("the listener was closed, and Serve returns no error")
	}
	if n := strings.Count(log.String(), "socket=/run/c.sock"); n != 2 || !strings.Contains(log.String(), "Accept error") {
		t.Errorf("the log is\n%s", log.String())
	}
}
