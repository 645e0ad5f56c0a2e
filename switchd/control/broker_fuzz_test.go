package control

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
)

// strictBroker takes what a broker may be handed, and nothing else.
type strictBroker struct{ t testing.TB }

var plugName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,62}$`)

func (b strictBroker) Version() VersionInfo { return VersionInfo{Version: "test"} }

func (b strictBroker) Plug(_ context.Context, name string, caller Peer) (Port, error) {
	if caller.PID != os.Getpid() {
		b.t.Errorf("the caller is %+v", caller)
	}
	if !plugName.MatchString(name) { // the daemon refuses these
		return Port{}, ErrBadRequest
	}
	return Port{ID: -1, Name: name}, nil
}

func (b strictBroker) OpenDevice(_ context.Context, path string, _ Peer) (*os.File, error) {
	if path == "/dev/null" {
		return os.Open(path)
	}
	return nil, ErrForbidden
}

// FuzzBroker sends arbitrary bytes in two parts to the socket for QEMU processes, with descriptors that nobody asked for: the server answers or
// closes, goes on serving others, and has nothing counted afterwards.
func FuzzBroker(f *testing.F) {
	for _, seed := range []string{
		"GET /v1/version HTTP/1.1\r\nHost: s\r\n\r\n", "PUT /v1/plugs/vm1 HTTP/1.1\r\nHost: s\r\nContent-Length: 0\r\n\r\n",
		"PUT /v1/plugs/..%2f..%2fetc HTTP/1.1\r\nHost: s\r\n\r\n", "POST /v1/devices HTTP/1.1\r\nHost: s\r\nContent-Length: 20\r\n\r\n{\"path\":\"/dev/null\"}",
		"POST /v1/devices HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "\x00\x16\x03\x01", "GET / HTTP/1.1\r\n",
	} {
		f.Add([]byte(seed), uint16(20), byte(0))
		f.Add([]byte(seed), uint16(3), byte(2))
	}
	b := books(f)
	path, _ := run(f, func(l net.Listener) *Server { return NewBrokerServer(l, strictBroker{f}, b, quiet) })
	f.Fuzz(func(t *testing.T, input []byte, cut uint16, fds byte) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		at := min(int(cut), len(input))
		for _, part := range [][]byte{input[:at], input[at:]} {
			var rights []byte
			if n := int(fds % 4); n > 0 {
				list := make([]int, n)
				for i := range list {
					list[i] = 0
				}
				rights = unix.UnixRights(list...)
			}
			if _, _, err := conn.WriteMsgUnix(part, rights, nil); errors.Is(err, unix.EPERM) { // the kernel refuses descriptors for us
				_, _ = conn.Write(part)
			}
		}
		_ = conn.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the server neither answers nor closes")
		}
		conn.Close()
		for end := time.Now().Add(5 * time.Second); b.Usage()[budget.Requests].Used > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d requests are still counted", b.Usage()[budget.Requests].Used)
			}
		}
	})
}
