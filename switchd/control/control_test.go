package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/switchd/unixsocket"
)

// fakeBackend keeps named ports in a map and has one device on the shared socket.
type fakeBackend struct {
	mu    sync.Mutex
	named map[string]bool
}

func (f *fakeBackend) Version() control.VersionInfo {
	return control.VersionInfo{Version: "test", Go: "go", PID: 7, Started: time.Unix(1, 0)}
}

func (f *fakeBackend) Ports() []control.Port {
	f.mu.Lock()
	defer f.mu.Unlock()
	ports := []control.Port{{
		ID: 0, Socket: "/s", Transport: "vhost-user", State: control.StateReady, MACs: []string{"cc:bb:bb:bb:bb:bb"}, VLAN: 1000,
		Queues: []control.Queue{{Pair: 0, RX: control.QueueStats{Packets: 1<<64 - 1, Drops: map[string]uint64{"ring_full": 2}}}},
	}}
	for name := range f.named {
		ports = append(ports, control.Port{ID: -1, Name: name, State: control.StateDisconnected})
	}
	return ports
}

func (f *fakeBackend) FDB() []control.FDBEntry {
	return []control.FDBEntry{{MAC: "cc:bb:bb:bb:bb:bb", Port: 0, VLAN: 1000, AgeSeconds: 3}}
}

func (f *fakeBackend) Stats() control.Stats {
	return control.Stats{UptimeSeconds: 1.5, Ports: f.Ports()}
}

func (f *fakeBackend) AddPort(_ context.Context, r control.AddPortRequest) (control.Port, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case r.Name == "":
		return control.Port{}, fmt.Errorf("%w: no name", control.ErrBadRequest)
	case r.Name == "busy":
		return control.Port{}, fmt.Errorf("socket of busy: %w", unixsocket.ErrInUse)
	case r.Name == "broken":
		return control.Port{}, errors.New("disk on fire")
	case f.named[r.Name]:
		return control.Port{}, fmt.Errorf("%w: port %q", control.ErrExists, r.Name)
	}
	f.named[r.Name] = true
	return control.Port{ID: -1, Name: r.Name, State: control.StateDisconnected}, nil
}

func (f *fakeBackend) RemovePort(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.named[name] {
		return fmt.Errorf("%w: port %q", control.ErrNotFound, name)
	}
	delete(f.named, name)
	return nil
}

// serve starts a server on a real Unix socket and returns its path and a function that stops it.
func serve(t *testing.T) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "c.sock")
	l, err := unixsocket.Listen(path, unixsocket.Access{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := control.NewServer(l, &fakeBackend{named: map[string]bool{}}, nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
	go func() { done <- server.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve does not end with its context")
		}
	})
	t.Cleanup(stop)
	return path, stop
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestClientAndServer(t *testing.T) {
	path, _ := serve(t)
	ctx, c := testContext(t), control.NewClient(path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, error %v", info, err)
	}
	if v, err := c.Version(ctx); err != nil || v.Version != "test" || v.PID != 7 || !v.Started.Equal(time.Unix(1, 0)) {
		t.Errorf("version %+v, error %v", v, err)
	}
	ports, err := c.Ports(ctx)
	if err != nil || len(ports) != 1 || ports[0].MACs[0] != "cc:bb:bb:bb:bb:bb" {
		t.Fatalf("ports %+v, error %v", ports, err)
	}
	if rx := ports[0].Queues[0].RX; rx.Packets != 1<<64-1 || rx.Drops["ring_full"] != 2 {
		t.Errorf("counters changed on the way: %+v", rx)
	}
	if p, err := c.AddPort(ctx, "vm1"); err != nil || p.Name != "vm1" || p.ID != -1 {
		t.Errorf("add: %+v, error %v", p, err)
	}
	if p, err := c.Port(ctx, "vm1"); err != nil || p.Name != "vm1" {
		t.Errorf("by name: %+v, error %v", p, err)
	}
	if p, err := c.Port(ctx, "0"); err != nil || p.VLAN != 1000 {
		t.Errorf("by number: %+v, error %v", p, err)
	}
	if s, err := c.Stats(ctx); err != nil || s.UptimeSeconds != 1.5 || len(s.Ports) != 2 {
		t.Errorf("stats %+v, error %v", s, err)
	}
	if f, err := c.FDB(ctx); err != nil || len(f) != 1 || f[0].AgeSeconds != 3 {
		t.Errorf("fdb %+v, error %v", f, err)
	}
	if err := c.RemovePort(ctx, "vm1"); err != nil {
		t.Errorf("remove: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	path, _ := serve(t)
	ctx, c := testContext(t), control.NewClient(path)
	if _, err := c.AddPort(ctx, "twice"); err != nil {
		t.Fatal(err)
	}
	add := func(name string) error { _, err := c.AddPort(ctx, name); return err }
	show := func(name string) error { _, err := c.Port(ctx, name); return err }
	for _, test := range []struct {
		name   string
		err    error
		status int
	}{
		{"no name", add(""), 400}, {"exists", add("twice"), 409}, {"socket in use", add("busy"), 409}, {"inner failure", add("broken"), 500},
		{"unknown name", show("vm9"), 404}, {"unknown number", show("9"), 404}, {"negative number", show("-1"), 404},
		{"path in a name", show("../ports"), 404}, {"remove unknown", c.RemovePort(ctx, "vm9"), 404},
	} {
		var remote *control.RemoteError
		if !errors.As(test.err, &remote) || remote.Status != test.status || remote.Message == "" {
			t.Errorf("%s: %v, want status %d", test.name, test.err, test.status)
		}
	}
}

// raw sends a request as any HTTP client would.
func raw(t *testing.T, path, method, target, body string) (status int, answer map[string]string, header http.Header) {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	request, err := http.NewRequestWithContext(testContext(t), method, "http://switchd"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatalf("%s %s: status %d, the answer is not an error in JSON: %v", method, target, response.StatusCode, err)
	}
	return response.StatusCode, answer, response.Header
}

func TestBadRequests(t *testing.T) {
	path, _ := serve(t)
	for _, test := range []struct {
		name, method, target, body string
		status                     int
	}{
		{"unknown path", "GET", "/v2/ports", "", 404}, {"root", "GET", "/", "", 404},
		{"method", "PUT", "/v1/ports", "", 405}, {"method on a port", "POST", "/v1/ports/0", "", 405}, {"method on stats", "DELETE", "/v1/stats", "", 405},
		{"no body", "POST", "/v1/ports", "", 400}, {"not JSON", "POST", "/v1/ports", "name=x", 400}, {"wrong type", "POST", "/v1/ports", `{"name":1}`, 400},
		{"unknown field", "POST", "/v1/ports", `{"name":"a","colour":"red"}`, 400}, {"two values", "POST", "/v1/ports", `{"name":"a"}{"name":"b"}`, 400},
		{"large body", "POST", "/v1/ports", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 413},
	} {
		status, answer, header := raw(t, path, test.method, test.target, test.body)
		if status != test.status || answer["error"] == "" || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: status %d, %v, %v; want %d with an error", test.name, status, answer, header, test.status)
		}
		if status == http.StatusMethodNotAllowed && header.Get("Allow") == "" {
			t.Errorf("%s: no Allow header", test.name)
		}
	}
}

func TestUnreachable(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.sock")
	_, err := control.NewClient(missing).Ports(testContext(t))
	if !errors.Is(err, control.ErrUnreachable) || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "is it running?") {
		t.Errorf("missing socket: %v", err)
	}

	path, stop := serve(t)
	c := control.NewClient(path)
	if _, err := c.Ports(testContext(t)); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := c.Ports(testContext(t)); !errors.Is(err, control.ErrUnreachable) {
		t.Errorf("stopped switchd: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is left: %v", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Ports(ctx); errors.Is(err, control.ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Errorf("the caller's own end: %v", err)
	}
}

func TestControlSocketReplacement(t *testing.T) {
	path, _ := serve(t)
	if _, err := unixsocket.Listen(path, unixsocket.Access{}); !errors.Is(err, unixsocket.ErrInUse) {
		t.Errorf("a live socket: %v", err)
	}
	if _, err := control.NewClient(path).Version(testContext(t)); err != nil {
		t.Errorf("the live server suffered: %v", err)
	}

	stale := filepath.Join(t.TempDir(), "c.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := unixsocket.Listen(stale, unixsocket.Access{})
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	l.Close()

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unixsocket.Listen(file, unixsocket.Access{}); err == nil {
		t.Error("a regular file was replaced")
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file is %q, error %v", data, err)
	}
}

func TestFindPortPrefersNumbers(t *testing.T) {
	ports := []control.Port{{ID: 1, Name: "0"}, {ID: 0, Name: "1"}, {ID: -1, Name: "7"}}
	for which, want := range map[string]string{"0": "1", "1": "0", "7": "7"} {
		if p, err := control.FindPort(ports, which); err != nil || p.Name != want {
			t.Errorf("FindPort(%q) = %+v, %v; want the port named %s", which, p, err, want)
		}
	}
}
