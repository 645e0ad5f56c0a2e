package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/unixsocket"
)

// maxBody bounds a request's body in bytes.
const maxBody = 64 << 10

// Server serves a Backend on a listener.
type Server struct {
	backend Backend
	log     *slog.Logger
	gate    *gate
	broker  bool // for QEMU processes
	handle  http.Handler
}

// NewServer serves on a Unix listener, which it owns; who may connect is decided by the socket file's mode. Connections are counted in the
// budget, which may be nil; those of root and of this process's user may use its reserve.
func NewServer(l net.Listener, b Backend, books *budget.Budget, log *slog.Logger) *Server {
	s := &Server{backend: b, log: log, gate: newGate(l, books, true, log)}
	s.handle = s.handler()
	return s
}

// Requests tells how many connections were served, made to wait, and refused.
func (s *Server) Requests() RequestStats { return s.gate.stats() }

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	log := s.log.With("socket", s.gate.Addr().String()) // whose budget of lines net/http's complaints come out of
	server := &http.Server{
		Handler: s.handle, ConnContext: withCaller, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	if s.broker { // whoever asks there has one question, and many others wait
		server.ReadHeaderTimeout, server.ReadTimeout, server.WriteTimeout = 2*time.Second, 3*time.Second, 10*time.Second
		server.SetKeepAlivesEnabled(false)
	}
	stop := context.AfterFunc(ctx, func() {
		shutdown, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(shutdown) != nil {
			go server.Close() // may wait in the kernel for what somebody sent
		}
	})
	defer stop()
	if err := server.Serve(s.gate); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, s.backend.Version()) })
	mux.HandleFunc("GET /v1/ports", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, s.backend.Ports()) })
	mux.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, s.backend.Stats()) })
	mux.HandleFunc("GET /v1/fdb", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, s.backend.FDB()) })
	mux.HandleFunc("GET /v1/ports/{port}", s.getPort)
	mux.HandleFunc("POST /v1/ports", s.addPort)
	mux.HandleFunc("DELETE /v1/ports/{port}", s.removePort)
	for path, methods := range map[string]string{
		"/v1/version": "GET", "/v1/ports": "GET, POST", "/v1/stats": "GET", "/v1/fdb": "GET", "/v1/ports/{port}": "GET, DELETE",
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", methods)
			s.answer(w, http.StatusMethodNotAllowed, errorBody{Error: r.Method + " is not possible on " + r.URL.Path, Hint: "possible: " + methods})
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, fmt.Errorf("%w: %s %s; the paths begin with /v1/", ErrNotFound, r.Method, r.URL.Path))
	})
	return mux
}

func (s *Server) getPort(w http.ResponseWriter, r *http.Request) {
	p, err := FindPort(s.backend.Ports(), r.PathValue("port"))
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.answer(w, http.StatusOK, p)
}

// FindPort looks a port up by number, or by name. A name that is the number of another port loses.
func FindPort(ports []Port, which string) (Port, error) {
	if id, err := strconv.Atoi(which); err == nil && id >= 0 {
		for _, p := range ports {
			if p.ID == id {
				return p, nil
			}
		}
	}
	for _, p := range ports {
		if p.Name != "" && p.Name == which {
			return p, nil
		}
	}
	return Port{}, fmt.Errorf("%w: port %q", ErrNotFound, which)
}

func (s *Server) addPort(w http.ResponseWriter, r *http.Request) {
	var request AddPortRequest
	if err := decode(w, r, &request); err != nil {
		s.refuse(w, err)
		return
	}
	p, err := s.backend.AddPort(r.Context(), request)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.answer(w, http.StatusCreated, p)
}

func (s *Server) removePort(w http.ResponseWriter, r *http.Request) {
	if err := s.backend.RemovePort(r.Context(), r.PathValue("port")); err != nil {
		s.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("control: writing an answer", "error", err)
	}
}

// errorBody is how errors travel.
type errorBody struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	status, hint := http.StatusInternalServerError, ""
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, ErrNotFound):
		status, hint = http.StatusNotFound, "vhostctl ports lists what is there"
	case errors.Is(err, ErrExists):
		status, hint = http.StatusConflict, "choose another name, or remove the port first"
	case errors.Is(err, unixsocket.ErrInUse):
		status, hint = http.StatusConflict, "another process serves that socket: stop it, or choose another name"
	case errors.As(err, &tooLarge):
		status, hint = http.StatusRequestEntityTooLarge, fmt.Sprintf("at most %d bytes", tooLarge.Limit)
	case errors.Is(err, ErrBusy):
		status, hint = http.StatusConflict, "try again in some seconds"
	case errors.Is(err, ErrForbidden):
		status = http.StatusForbidden
	case errors.Is(err, ErrBadRequest):
		status = http.StatusBadRequest
	}
	s.answer(w, status, errorBody{Error: err.Error(), Hint: hint})
}
