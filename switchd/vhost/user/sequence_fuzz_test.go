package user

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/vhost"
	"vhostkit/switchd/virtio"
)

// realSwitch plugs sessions into a switch that runs, as the daemon does.
type realSwitch struct {
	sw    *forward.Switch
	ports sync.WaitGroup
}

type realPort struct {
	*forward.Port
	of *realSwitch
}

func (s *realSwitch) Connect(c vhost.Connection) (vhost.Port, error) {
	p, err := s.sw.AddPort(c.Fail)
	if err != nil {
		return nil, err
	}
	s.ports.Add(1)
	return &realPort{p, s}, nil
}

func (p *realPort) ID() int                 { return int(p.Port.ID()) }
func (p *realPort) Update(u vhost.Update)   { p.Port.Update(u.Rings, u.Features, u.Memory) }
func (p *realPort) Announce(mac [6]byte)    { p.Port.Announce(ether.FromBytes(mac)) }
func (p *realPort) SetMTU(int) error        { return nil }
func (p *realPort) Waiting(string)          {}
func (p *realPort) Stopped(error)           {}
func (p *realPort) Quiesce(q *virtio.Queue) { p.Port.Quiesce(q) }
func (p *realPort) Close()                  { p.Port.Close(); p.of.ports.Done() }

func startRealSwitch(t testing.TB) *realSwitch {
	s := &realSwitch{sw: forward.New(forward.Config{Cores: []int{-1}, VM2VM: forward.VM2VMSoftware, MaxFrame: forward.StandardFrame, MACLimit: 16,
		VLANBase: 1000, OnEvent: func(forward.Event) {}})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.sw.Run(ctx) }()
	for len(s.sw.Workers()) == 0 {
		time.Sleep(time.Millisecond)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// program is a front-end that does what the bytes of an input say. Its memory is small, and what it sets up mostly right, so that what is behind
// the checks of single messages is reached.
type program struct {
	*client
	input  []byte
	memory []int // files that were shared
	kicks  []int
	calls  []int
}

const (
	sequenceMemory = 64 << 10
	sequenceUser   = 1 << 32
)

func (p *program) next() byte {
	if len(p.input) == 0 {
		return 0
	}
	b := p.input[0]
	p.input = p.input[1:]
	return b
}

// pick is a value of a list, or one that is not in it.
func (p *program) pick(good ...uint64) uint64 {
	b := p.next()
	if b >= 0xf0 {
		return uint64(b) * 0x0101010101010101
	}
	return good[int(b)%len(good)]
}

// try sends a message; the session may have ended.
func (p *program) try(r Request, payload []byte, fds ...int) {
	b := binary.LittleEndian.AppendUint32(nil, uint32(r))
	b = binary.LittleEndian.AppendUint32(b, flagVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	_ = p.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, _, _ = p.conn.WriteMsgUnix(append(b, payload...), unix.UnixRights(fds...), nil)
}

// file shares memory: a new file, or one of those before. It holds rings of descriptors that the input fills.
func (p *program) file() int {
	if b := p.next(); len(p.memory) > 0 && b < 0x80 {
		return p.memory[int(b)%len(p.memory)]
	}
	fd := memfd(p.t, sequenceMemory)
	p.memory = append(p.memory, fd)
	return fd
}

// region is {guest address, size, user address, offset}.
func (p *program) region() []byte {
	at := p.pick(0, sequenceMemory, 2*sequenceMemory)
	return u64s(at, p.pick(sequenceMemory, 4096, 2*sequenceMemory), sequenceUser+at, p.pick(0, 0, 4096))
}

func (p *program) ring() uint32 { return uint32(p.pick(0, 1, 2, 3)) }

// step is one message, or something that a guest does meanwhile.
func (p *program) step() {
	switch op := p.next(); op % 20 {
	case 0:
		p.try(VHOST_USER_SET_FEATURES, u64s(p.pick(1<<virtio.VIRTIO_F_VERSION_1, 1<<virtio.VIRTIO_F_VERSION_1|1<<virtio.VIRTIO_F_RING_PACKED,
			1<<virtio.VIRTIO_F_VERSION_1|1<<virtio.VHOST_USER_F_PROTOCOL|1<<virtio.VIRTIO_F_EVENT_IDX)))
	case 1:
		n := int(p.next()%2) + 1
		payload, fds := u32s(uint32(n), 0), []int{}
		for range n {
			payload = append(payload, p.region()...)
			fds = append(fds, p.file())
		}
		p.try(VHOST_USER_SET_MEM_TABLE, payload, fds...)
	case 2:
		p.try(VHOST_USER_ADD_MEM_REG, append(u64s(0), p.region()...), p.file())
	case 3:
		p.try(VHOST_USER_REM_MEM_REG, append(u64s(0), p.region()...))
	case 4:
		p.try(VHOST_USER_SET_VRING_NUM, u32s(p.ring(), uint32(p.pick(8, 16, 64, 3))))
	case 5:
		base := p.pick(sequenceUser, sequenceUser+0x4000, sequenceUser+sequenceMemory, sequenceUser+sequenceMemory-64)
		p.try(VHOST_USER_SET_VRING_ADDR, append(u32s(p.ring(), 0), u64s(base, base+0x2000, base+0x1000, 0)...))
	case 6:
		p.try(VHOST_USER_SET_VRING_BASE, u32s(p.ring(), uint32(p.pick(0, 1, 0x8000, 0xffff))))
	case 7, 8:
		fd := eventfd(p.t)
		p.kicks = append(p.kicks, fd)
		p.try(VHOST_USER_SET_VRING_KICK, u64s(uint64(p.ring()&0xff)), fd)
	case 9, 10:
		p.call()
	case 11:
		p.try(VHOST_USER_SET_VRING_ENABLE, u32s(p.ring(), uint32(p.next()&1)))
	case 12:
		p.try(VHOST_USER_GET_VRING_BASE, u32s(p.ring(), 0))
	case 13:
		p.try([]Request{VHOST_USER_RESET_DEVICE, VHOST_USER_RESET_OWNER, VHOST_USER_GET_FEATURES}[p.next()%3], nil)
	case 14:
		p.try(VHOST_USER_SEND_RARP, u64s(p.pick(0x0200000002)))
	case 15: // the file is cut, or grows again
		if len(p.memory) > 0 {
			_ = unix.Ftruncate(p.memory[int(p.next())%len(p.memory)], int64(p.pick(0, 4096, sequenceMemory)))
		}
	case 16: // a hole
		if len(p.memory) > 0 {
			_ = unix.Fallocate(p.memory[int(p.next())%len(p.memory)], unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(p.pick(0, 4096)), 4096)
		}
	case 17:
		p.scribble()
	case 18:
		for _, fd := range p.kicks {
			_, _ = unix.Write(fd, u64s(1))
		}
	case 19:
		time.Sleep(time.Duration(p.next()) * 4 * time.Microsecond)
	}
}

// call passes an eventfd, one end of a socket pair, or nothing.
func (p *program) call() {
	index := uint64(p.ring() & 0xff)
	switch p.next() % 4 {
	case 0:
		p.try(VHOST_USER_SET_VRING_CALL, u64s(index|1<<8))
	case 1:
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			p.t.Fatal(err)
		}
		p.calls = append(p.calls, pair[:]...)
		p.try(VHOST_USER_SET_VRING_CALL, u64s(index), pair[0])
	default:
		fd := eventfd(p.t)
		p.calls = append(p.calls, fd)
		p.try(VHOST_USER_SET_VRING_CALL, u64s(index), fd)
	}
}

// scribble writes a ring's descriptors and its avail index into a file, by write(2): the guest's own processor would do no better.
func (p *program) scribble() {
	if len(p.memory) == 0 {
		return
	}
	fd := p.memory[int(p.next())%len(p.memory)]
	base := int64(p.pick(0, 0x4000))
	seed, stride, ring := int(p.next()), int(p.next()), []byte{}
	of := func(list []uint64, i int) uint64 { return list[i%len(list)] }
	for i := range 16 {
		x := seed + i*stride
		ring = append(ring, u64s(of([]uint64{0x8000, 0x9000, sequenceMemory - 16, 1 << 40}, x), of([]uint64{60, 1514, 2048, 12}, x>>2)|
			of([]uint64{0, 2, 1, 3, 4, 0x80, 0x8080}, x>>4)<<32)...)
	}
	_, _ = unix.Pwrite(fd, ring, base)
	avail := []byte{0, 0, p.next(), 0}
	for i := range 16 {
		avail = append(avail, byte(i), 0)
	}
	_, _ = unix.Pwrite(fd, avail, base+0x1000)
}

// setUp is the beginning that makes a program go deep: memory, and two rings that run.
var setUp = []byte{
	0, 0, // features
	1, 0, 0, 0, 0, 0xff, // one region, new file
	4, 0, 1, 4, 1, 1, 5, 0, 0, 5, 1, 1, // size, addresses
	17, 0, 0, 0x10, 0, 16, 17, 0, 1, 0, 0, 8, // descriptors, 16 to receive and 8 to send
	9, 0, 2, 9, 1, 1, // calls
	7, 0, 7, 1, // kicks
	18, 19, 50,
}

// mappings is how many of a process's mappings are front-ends' files.
func mappings(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "session-test")
}

// FuzzSequence runs sequences of messages with memory and descriptors against a session on a switch that forwards, while the memory is cut and its
// rings are written: the device goes on or is stopped with an error, nothing panics or hangs, and no descriptor, mapping or port stays behind.
func FuzzSequence(f *testing.F) {
	f.Add([]byte{})
	f.Add(setUp)
	f.Add(append(bytes.Clone(setUp), 15, 0, 0, 18, 19, 200, 9, 0, 1, 12, 0))
	f.Add(append(bytes.Clone(setUp), 9, 0, 2, 9, 0, 2, 11, 0, 0, 11, 0, 1, 16, 0, 0, 18, 19, 200))
	f.Add(append(bytes.Clone(setUp), 2, 1, 0, 0, 0xff, 3, 1, 0, 0, 12, 0, 12, 1, 13, 0, 6, 0, 2, 7, 0))
	sw := startRealSwitch(f)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	warm := newSessionOn(f, sw, log)
	warm.close()
	f.Fuzz(func(t *testing.T, input []byte) {
		before := openFDs(t)
		p := &program{client: newSessionOn(t, sw, log), input: input}
		drained := make(chan bool)
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, p.conn)
		}()
		for steps := 0; len(p.input) > 0 && steps < 100; steps++ {
			p.step()
		}
		_ = p.conn.CloseWrite()
		<-drained
		p.close()
		vhost.CloseFDs(p.memory...)
		vhost.CloseFDs(p.kicks...)
		vhost.CloseFDs(p.calls...)
		sw.ports.Wait()
		for end := time.Now().Add(5 * time.Second); openFDs(t) > before; time.Sleep(time.Millisecond) { // some are closed by others, later
			if time.Now().After(end) {
				t.Fatalf("%d descriptors before, %d after", before, openFDs(t))
			}
		}
		if n := mappings(t); n != 0 {
			t.Errorf("%d mappings are left", n)
		}
		if n := len(sw.sw.Ports()); n != 0 {
			t.Errorf("%d ports are left", n)
		}
	})
}

// TestSequenceGoesDeep: the beginning that the fuzzer starts from really makes rings run and frames move, or it would look at nothing.
func TestSequenceGoesDeep(t *testing.T) {
	sw := startRealSwitch(t)
	p := &program{client: newSessionOn(t, sw, slog.New(slog.NewTextHandler(io.Discard, nil))), input: bytes.Clone(setUp)}
	defer func() {
		p.close()
		vhost.CloseFDs(p.memory...)
		vhost.CloseFDs(p.kicks...)
		vhost.CloseFDs(p.calls...)
	}()
	for len(p.input) > 0 {
		p.step()
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if l := sw.sw.Ports(); len(l) == 1 && l[0].RXRings == 1 && l[0].TXRings == 1 && l[0].Pairs[0].TX.Packets > 0 {
			return
		}
	}
	t.Errorf("ports: %+v", sw.sw.Ports())
}
