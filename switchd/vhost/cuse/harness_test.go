package cuse

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost"
	"vhostkit/switchd/virtio"
)

// fakeSwitch stands for the data plane. Each device gets a fakePort.
type fakeSwitch struct {
	mu    sync.Mutex
	ports []*fakePort
	err   error // for the next Connect
}

func (s *fakeSwitch) Connect(c vhost.Connection) (vhost.Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	p := &fakePort{id: len(s.ports), connection: c}
	s.ports = append(s.ports, p)
	return p, nil
}

// port is the port that was made last, -1 ports mean that there is none.
func (s *fakeSwitch) port(i int) *fakePort {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i >= len(s.ports) {
		return nil
	}
	return s.ports[i]
}

type fakePort struct {
	id         int
	connection vhost.Connection
	mu         sync.Mutex
	last       vhost.Update
	closed     bool
}

func (p *fakePort) ID() int { return p.id }

// Update does what a worker does first.
func (p *fakePort) Update(u vhost.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = u
	for _, q := range u.Rings {
		if q != nil {
			_ = guestmem.Contain(q.Start)
		}
	}
}
func (p *fakePort) Announce([6]byte)      {}
func (p *fakePort) Quiesce(*virtio.Queue) {}

func (p *fakePort) Touch(f func()) *guestmem.Fault { return guestmem.Contain(f) }
func (p *fakePort) Waiting(string)                 {}
func (p *fakePort) Stopped(error)                  {}
func (p *fakePort) SetMTU(int) error               { return nil }
func (p *fakePort) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.last = true, vhost.Update{}
}

// state tells which rings run, and whether the port is closed.
func (p *fakePort) state() (rings []int, closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, q := range p.last.Rings {
		if q != nil {
			rings = append(rings, i)
		}
	}
	return rings, p.closed
}

// kernel is the other end of a channel: it does for callers what the kernel's CUSE does.
type kernel struct {
	t      testing.TB
	socket *os.File
	sw     *fakeSwitch
	log    *lockedBuffer
	unique uint64
	tid    int // the calling thread
	done   chan error
	stop   context.CancelFunc
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func socketPair(t testing.TB) [2]*os.File {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return [2]*os.File{os.NewFile(uintptr(fds[0]), "kernel"), os.NewFile(uintptr(fds[1]), "channel")}
}

// boot makes a server and answers as the kernel until the device is there.
func boot(t testing.TB) *kernel {
	t.Helper()
	return bootWith(t, nil)
}

func bootWith(t testing.TB, b *budget.Budget) *kernel {
	t.Helper()
	pair := socketPair(t)
	k := &kernel{t: t, socket: pair[0], sw: &fakeSwitch{}, log: &lockedBuffer{}, tid: os.Getpid(), done: make(chan error, 1)}
	k.send(CUSE_INIT, words(7, 38, 0, CUSE_UNRESTRICTED_IOCTL))
	c := Config{
		Name: "test", Switch: k.sw, Options: vhost.Options{MaxQueuePairs: 8, Mergeable: true, MTU: 1500},
		Log: slog.New(slog.NewTextHandler(k.log, nil)), Budget: b,
	}
	s, err := start(c, pair[1])
	if err != nil {
		t.Fatal(err)
	}
	if errno, body := k.receive(); errno != 0 || string(body[72:]) != "DEVNAME=test\x00" || binary.NativeEndian.Uint32(body[12:]) != 1 {
		t.Fatalf("answer to CUSE_INIT: %v, % x", errno, body)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.stop = cancel
	go func() { k.done <- s.Serve(ctx) }()
	t.Cleanup(k.shutdown)
	return k
}

// shutdown ends the server and waits for it.
func (k *kernel) shutdown() {
	k.stop()
	select {
	case err := <-k.done:
		if err != nil {
			k.t.Errorf("Serve: %v", err)
		}
		k.done <- err
	case <-time.After(10 * time.Second):
		k.t.Fatal("the server does not end")
	}
	k.socket.Close()
}

func words(values ...uint32) (b []byte) {
	for _, v := range values {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func (k *kernel) send(opcode uint32, body []byte) {
	k.t.Helper()
	k.unique++
	b := words(uint32(inHeaderSize+len(body)), opcode)
	b = binary.NativeEndian.AppendUint64(b, k.unique)
	b = binary.NativeEndian.AppendUint64(b, 1) // nodeid
	b = append(b, words(0, 0, uint32(k.tid), 0)...)
	if _, err := k.socket.Write(append(b, body...)); err != nil {
		k.t.Fatal(err)
	}
}

// receive gets the answer to the last request.
func (k *kernel) receive() (unix.Errno, []byte) {
	k.t.Helper()
	_ = k.socket.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 64<<10)
	n, err := k.socket.Read(b)
	if err != nil || n < outHeaderSize {
		k.t.Fatalf("answer of %d bytes, %v; log:\n%s", n, err, k.log)
	}
	e := binary.NativeEndian
	if e.Uint32(b) != uint32(n) || e.Uint64(b[8:]) != k.unique {
		k.t.Fatalf("answer % x to request %d", b[:n], k.unique)
	}
	return unix.Errno(-int32(e.Uint32(b[4:]))), b[outHeaderSize:n]
}

func (k *kernel) ask(opcode uint32, body []byte) (unix.Errno, []byte) {
	k.t.Helper()
	k.send(opcode, body)
	return k.receive()
}

func (k *kernel) open() uint64 {
	k.t.Helper()
	errno, body := k.ask(FUSE_OPEN, words(2, 0))
	if errno != 0 || len(body) != 16 {
		k.t.Fatalf("open: %v, % x", errno, body)
	}
	return binary.NativeEndian.Uint64(body)
}

func (k *kernel) release(handle uint64) {
	k.t.Helper()
	if errno, _ := k.ask(FUSE_RELEASE, append(binary.NativeEndian.AppendUint64(nil, handle), make([]byte, 16)...)); errno != 0 {
		k.t.Fatalf("release: %v", errno)
	}
}

// argument is the address that ioctls are called with.
const argument = 0x7ffc_0000_1000

func (k *kernel) ioctlOnce(handle uint64, flags uint32, cmd ioctl, data []byte, out uint32) (unix.Errno, []byte) {
	k.t.Helper()
	b := binary.NativeEndian.AppendUint64(nil, handle)
	b = append(b, words(flags, uint32(cmd))...)
	b = binary.NativeEndian.AppendUint64(b, argument)
	b = append(b, words(uint32(len(data)), out)...)
	return k.ask(FUSE_IOCTL, append(b, data...))
}

// ioctl calls as a process would whose memory at argument is data. It copies what the device asks for, as often as it does.
func (k *kernel) ioctl(handle uint64, cmd ioctl, data []byte) (unix.Errno, []byte) {
	k.t.Helper()
	var in []byte
	out := uint32(0)
	for range 4 {
		errno, body := k.ioctlOnce(handle, FUSE_IOCTL_UNRESTRICTED, cmd, in, out)
		if errno != 0 {
			return errno, nil
		}
		e := binary.NativeEndian
		if e.Uint32(body[4:])&FUSE_IOCTL_RETRY == 0 {
			if n := len(body) - 16; n > int(out) {
				k.t.Fatalf("%v: %d bytes of answer, the kernel takes %d", cmd, n, out)
			}
			return unix.Errno(e.Uint32(body)), body[16:]
		}
		ins, outs, spans := int(e.Uint32(body[8:])), int(e.Uint32(body[12:])), body[16:]
		if ins > 1 || outs > 1 || len(spans) != 16*(ins+outs) {
			k.t.Fatalf("%v: retry with % x", cmd, body)
		}
		in, out = nil, 0
		if ins == 1 {
			if e.Uint64(spans) != argument || e.Uint64(spans[8:]) > uint64(len(data)) {
				return unix.EFAULT, nil
			}
			in = data[:e.Uint64(spans[8:])]
			spans = spans[16:]
		}
		if outs == 1 {
			out = uint32(e.Uint64(spans[8:]))
		}
	}
	k.t.Fatalf("%v: the device asks for memory without end", cmd)
	return 0, nil
}

// ok calls and wants success.
func (k *kernel) ok(handle uint64, cmd ioctl, data []byte) []byte {
	k.t.Helper()
	errno, answer := k.ioctl(handle, cmd, data)
	if errno != 0 {
		k.t.Fatalf("%v: %v; log:\n%s", cmd, errno, k.log)
	}
	return answer
}

// wants calls and wants an error.
func (k *kernel) wants(want unix.Errno, handle uint64, cmd ioctl, data []byte) {
	k.t.Helper()
	if errno, _ := k.ioctl(handle, cmd, data); errno != want {
		k.t.Errorf("%v % x: %v, want %v", cmd, data, errno, want)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}
