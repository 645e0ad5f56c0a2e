package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"vhostkit/internal/host"
	"vhostkit/switchd/budget"
)

// Broker is what processes that are not to be trusted with the control socket may ask for: QEMU's, before qemu-wrap becomes QEMU.
//
//	GET  /v1/version
//	PUT  /v1/plugs/{name}  Port: a named port that belongs to the caller's user (200)
//	POST /v1/devices       OpenDeviceRequest → {} (200), with the descriptor as SCM_RIGHTS beside the answer's first byte
//
// Errors are those of the control socket, and 403 where the user may not.
type Broker interface {
	Version() VersionInfo
	// Plug finds or makes a named port whose socket the caller may connect to. A port that another user's process asked for is ErrForbidden.
	Plug(ctx context.Context, name string, caller Peer) (Port, error)
	// OpenDevice opens a character device for reading and writing. Only devices that the configuration names are opened: ErrForbidden.
	OpenDevice(ctx context.Context, path string, caller Peer) (*os.File, error)
}

// OpenDeviceRequest names a character device.
type OpenDeviceRequest struct {
	Path string `json:"path"`
}

type callerKey struct{}

// withCaller remembers in a connection's context who is at the other end.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	caller, err := peerOf(c)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, caller)
}

// peerOf tells who is at the other end of one of the server's connections.
func peerOf(c net.Conn) (Peer, error) {
	u, ok := unixConn(c)
	if !ok {
		return host.NoPeer(), fmt.Errorf("connection of type %T", c)
	}
	return host.PeerOf(u)
}

// unixConn finds the socket of a connection that the gate counts.
func unixConn(c net.Conn) (*net.UnixConn, bool) {
	if counted, ok := c.(*guest); ok {
		c = counted.Conn
	}
	u, ok := c.(*net.UnixConn)
	return u, ok
}

// NewBrokerServer serves a Broker on a Unix listener, which it owns. Connections are counted in the budget, which may be nil, to their users.
func NewBrokerServer(l net.Listener, b Broker, books *budget.Budget, log *slog.Logger) *Server {
	s := &Server{log: log, broker: true, gate: newGate(l, books, false, log)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, b.Version()) })
	mux.HandleFunc("PUT /v1/plugs/{name}", func(w http.ResponseWriter, r *http.Request) {
		caller, ok := r.Context().Value(callerKey{}).(Peer)
		if !ok {
			s.refuse(w, errNoCaller)
			return
		}
		p, err := b.Plug(r.Context(), r.PathValue("name"), caller)
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.answer(w, http.StatusOK, p)
	})
	mux.HandleFunc("POST /v1/devices", func(w http.ResponseWriter, r *http.Request) { s.openDevice(w, r, b) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, fmt.Errorf("%w: %s %s on QEMU's socket; ports and counters are on the control socket", ErrNotFound, r.Method, r.URL.Path))
	})
	s.handle = mux
	return s
}

var errNoCaller = fmt.Errorf("%w: the kernel does not say who is calling", ErrForbidden)

func (s *Server) openDevice(w http.ResponseWriter, r *http.Request, b Broker) {
	caller, ok := r.Context().Value(callerKey{}).(Peer)
	if !ok {
		s.refuse(w, errNoCaller)
		return
	}
	var request OpenDeviceRequest
	if err := decode(w, r, &request); err != nil {
		s.refuse(w, err)
		return
	}
	f, err := b.OpenDevice(r.Context(), request.Path, caller)
	if err != nil {
		s.refuse(w, err)
		return
	}
	defer f.Close()
	if err := sendFile(w, f); err != nil {
		s.log.Warn("handing a device over", "device", request.Path, "pid", caller.PID, "error", err)
	}
}

// sendFile answers with an empty object and the file's descriptor. The connection ends with it.
func sendFile(w http.ResponseWriter, f *os.File) error {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	u, ok := unixConn(conn)
	if !ok {
		return fmt.Errorf("connection of type %T", conn)
	}
	const answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
	_, _, err = u.WriteMsgUnix([]byte(answer), unix.UnixRights(int(f.Fd())), nil)
	return err
}

// decode reads a request's body, strictly: one JSON value, no unknown fields, at most maxBody bytes.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if err == nil && decoder.More() {
		err = errors.New("more than one JSON value")
	}
	if err != nil {
		return fmt.Errorf("%w: body: %w", ErrBadRequest, err)
	}
	return nil
}
