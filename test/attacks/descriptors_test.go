package attacks

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost/user"
	"vhostkit/test/frontend"
)

// slowCloser makes TCP sockets whose close(2) takes an hour: SO_LINGER, data under way, and a peer that does not read.
type slowCloser struct {
	peer unix.Sockaddr
}

func newSlowCloser(t testing.TB) *slowCloser {
	t.Helper()
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(l) }) // this resets all connections, and every close returns
	_ = unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_RCVBUF, 2304)
	_ = unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	_ = unix.Listen(l, 4096)
	peer, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	return &slowCloser{peer: peer}
}

// socket makes one. Whoever closes it last waits.
func (s *slowCloser) socket(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4608)
	if err := unix.Connect(fd, s.peer); err != nil {
		t.Fatal(err)
	}
	_ = unix.SetNonblock(fd, true)
	for full := make([]byte, 65536); ; {
		if _, err := unix.Write(fd, full); err != nil {
			break
		}
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// sendSlow sends the beginning of a message together with a descriptor that closes slowly, which is then the switch's alone.
func (s *slowCloser) sendSlow(t testing.TB, conn *net.UnixConn, b []byte) error {
	t.Helper()
	fd := s.socket(t)
	err := (&frontend.Wire{Conn: conn}).Raw(b, fd)
	go unix.Close(fd) // should it be the last one, it is here that somebody waits
	return err
}

// TestSlowCloseRemovePort: a named port whose front-end sent a descriptor that closes slowly (audit 11) can be removed, ports can be added, and
// other guests can be plugged meanwhile.
func TestSlowCloseRemovePort(t *testing.T) {
	d := start(t)
	p := newPair(t, d, innocent)
	ctx := context.Background()
	if _, err := d.client.AddPort(ctx, "evil"); err != nil {
		t.Fatal(err)
	}
	conn, err := connect(hostile, filepath.Join(d.dir, "p", "evil.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	message := frontend.Message(user.VHOST_USER_SET_PROTOCOL_FEATURES, 0, frontend.U64(0))
	if err := newSlowCloser(t).sendSlow(t, conn, message[:12]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	_, _ = conn.Write(message[12:])
	time.Sleep(100 * time.Millisecond)
	within := func(what string, do func(context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := do(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	within("removing the attacker's port", func(ctx context.Context) error { return d.client.RemovePort(ctx, "evil") })
	within("adding a port", func(ctx context.Context) error { _, err := d.client.AddPort(ctx, "innocent"); return err })
	within("another guest's qemu-wrap asks for its port", func(ctx context.Context) error {
		_, err := request(ctx, innocent, d.broker, http.MethodPut, "/v1/plugs/vm9")
		return err
	})
	p.keepsTalking(t, "beside a slow close")
	d.goesOn(t)
	conn.Close()
	d.stop(t)
}

// TestSlowCloseStop: the switch ends in time although a session closes slowly.
func TestSlowCloseStop(t *testing.T) {
	d := start(t)
	conn, err := connect(hostile, d.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	message := frontend.Message(user.VHOST_USER_SET_PROTOCOL_FEATURES, 0, frontend.U64(0))
	if err := newSlowCloser(t).sendSlow(t, conn, message[:12]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	_, _ = conn.Write(message[12:])
	time.Sleep(100 * time.Millisecond)
	d.stop(t)
}

// request makes one HTTP request on a Unix socket, as a user.
func request(ctx context.Context, uid int, socket, method, path string) (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return connect(uid, socket)
	}}}
	r, err := http.NewRequestWithContext(ctx, method, "http://switchd"+path, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= 300 {
		err = &net.OpError{Op: answer.Status, Net: "unix", Err: io.ErrUnexpectedEOF}
	}
	return answer.Status + " " + string(b), err
}

// TestThreads: descriptors that close slowly come with the first bytes on many connections (audit 3). Each can cost a thread, and with 10,000 the Go
// runtime ends the process.
func TestThreads(t *testing.T) {
	message := frontend.Message(user.VHOST_USER_SET_PROTOCOL_FEATURES, 0, frontend.U64(0))
	for _, c := range []struct {
		name   string
		socket func(*daemon) string
		bytes  []byte
	}{
		{"QEMU's socket", func(d *daemon) string { return d.broker }, []byte("G")},
		{"control socket", func(d *daemon) string { return d.admin }, []byte("G")},
		{"vhost-user socket", func(d *daemon) string { return d.socket }, message},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := start(t)
			p := newPair(t, d, innocent)
			if err := os.Chmod(d.admin, 0o666); err != nil { // as with --socket-group
				t.Fatal(err)
			}
			slow := newSlowCloser(t)
			var held []net.Conn
			defer func() {
				for _, conn := range held {
					conn.Close()
				}
			}()
			begin, most := time.Now(), 0
			for len(held) < 1200 && time.Since(begin) < 6*time.Second && !d.dead() {
				conn, err := connect(hostile, c.socket(d))
				if err != nil {
					time.Sleep(time.Millisecond) // the backlog is full
					continue
				}
				held = append(held, conn)
				_ = slow.sendSlow(t, conn, c.bytes)
				if len(held)%50 == 0 {
					most = max(most, d.threads())
				}
			}
			time.Sleep(200 * time.Millisecond)
			most = max(most, d.threads())
			t.Logf("%d connections: %d threads at most", len(held), most)
			if most > 512+64 {
				t.Errorf("%d connections made switchd start %d threads", len(held), most)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if _, err := request(ctx, innocent, d.broker, http.MethodPut, "/v1/plugs/vm9"); err != nil {
				t.Errorf("another user's qemu-wrap asks for its port: %v", err)
			}
			if _, err := request(ctx, admin, d.admin, http.MethodGet, "/v1/version"); err != nil {
				t.Errorf("the administrator: %v", err)
			}
			p.keepsTalking(t, "beside slow closes")
			d.goesOn(t)
			d.stop(t) // with all of it
		})
	}
}

// TestDescriptors: idle connections to QEMU's socket use up no descriptors that guests need (audit 15): one that reboots passes new eventfds.
func TestDescriptors(t *testing.T) {
	d := newDaemon(t)
	d.before = []string{"prlimit", "--nofile=512:512"}
	d.launch(t, d.out)
	p := newPair(t, d, innocent)
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			conn.Close()
		}
	}()
	for begin := time.Now(); len(held) < 520 && time.Since(begin) < 3*time.Second; {
		conn, err := connect(hostile, d.broker)
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		_, _ = conn.Write([]byte("GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n")) // keeps it for a minute
		held = append(held, conn)
	}
	time.Sleep(200 * time.Millisecond)
	files, _ := os.ReadDir("/proc/" + itoa(d.pid()) + "/fd")
	t.Logf("%d connections: switchd has %d descriptors of 512", len(held), len(files))
	p.keepsTalking(t, "beside idle connections")
	kick, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(kick)
	if err := p.from.Tell(user.VHOST_USER_SET_VRING_KICK, frontend.U64(1), kick); err != nil {
		t.Errorf("an innocent guest that reboots cannot pass an eventfd: %v", err)
	}
	p.from.TX[0].Kick = kick
	p.keepsTalking(t, "after a guest's reboot")
	d.goesOn(t)
}

// TestSecondConnection: a second connection to a named port, again and again, is paced, and costs few lines.
func TestSecondConnection(t *testing.T) {
	d := start(t)
	if _, err := d.client.AddPort(context.Background(), "vm1"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.dir, "p", "vm1.sock")
	owner, err := newTiny(innocent, path)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.close()
	before, n := len(d.out.String()), 0
	for begin := time.Now(); time.Since(begin) < 3*time.Second; n++ {
		if g, err := newTiny(innocent, path); err == nil {
			g.close()
			t.Fatal("a second guest gets on by a port in use")
		}
	}
	time.Sleep(100 * time.Millisecond)
	lines := strings.Count(d.out.String()[before:], "\n")
	t.Logf("%d tries in 3 s, %d lines", n, lines)
	if n > 100 {
		t.Errorf("%d tries in 3 s were answered: no growing delay", n)
	}
	if lines > 20 {
		t.Errorf("%d lines in 3 s", lines)
	}
	d.goesOn(t)
}
