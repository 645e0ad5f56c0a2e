package vfiouser

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// card is a device that remembers what it was told.
type card struct {
	mu        sync.Mutex
	registers [1024]uint32
	config    [256]byte
	memory    *Memory
	interrupt func(int)
	resets    int
}

func (c *card) ReadBAR(offset uint32) uint32 { return c.registers[offset/4] }

// WriteBAR copies a word from one DMA address to another where register 0 names the first and register 4 is written.
func (c *card) WriteBAR(offset, value uint32) {
	c.registers[offset/4] = value
	if offset == 4 {
		var word [4]byte
		if err := c.memory.ReadDMA(uint64(c.registers[0]), word[:]); err != nil {
			c.registers[2] = 0xbad
			return
		}
		if err := c.memory.WriteDMA(uint64(value), word[:]); err != nil {
			c.registers[2] = 0xbad
			return
		}
		c.registers[2] = 1
		c.interrupt(3)
	}
}

func (c *card) ReadConfig(offset, size int) (uint32, error) {
	return getBytes(c.config[offset : offset+size]), nil
}
func (c *card) WriteConfig(offset, size int, value uint32) error {
	putBytes(c.config[offset:offset+size], value)
	return nil
}
func (c *card) SetMemory(m *Memory) { c.memory = m }
func (c *card) SetInterrupt(f func(int)) {
	if c.interrupt = f; f == nil {
		c.interrupt = func(int) {}
	}
}
func (c *card) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resets++
	c.registers = [1024]uint32{}
}

// start serves a card and gives the socket's path.
func start(t testing.TB) (*card, string) {
	t.Helper()
	_, c, path := startWith(t, defaultLimits)
	return c, path
}

func startWith(t testing.TB, l limits) (*Server, *card, string) {
	t.Helper()
	c := &card{}
	path := filepath.Join(t.TempDir(), "device")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := New(c, Layout{BAR: [6]uint64{4096, 0, 0, 0, 512}, Config: 256, Vectors: 8}, nil)
	s.limits = l
	go func() { done <- s.Serve(ctx, path) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Error("the server does not end")
		}
	})
	return s, c, path
}

// client is the other end.
type client struct {
	t  testing.TB
	c  *net.UnixConn
	id uint16
}

func dial(t testing.TB, path string) *client {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			t.Cleanup(func() { c.Close() })
			return &client{t: t, c: c}
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

var errServer = errors.New("the server answered with an error")

// ask sends a command and gives the reply's payload.
func (c *client) ask(command uint16, payload []byte, fds ...int) ([]byte, error) {
	c.id++
	h := header{id: c.id, command: command, size: uint32(headerSize + len(payload))}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.c.WriteMsgUnix(append(h.append(nil), payload...), oob, nil); err != nil {
		return nil, err
	}
	_ = c.c.SetReadDeadline(time.Now().Add(5 * time.Second))
	var b [headerSize]byte
	if _, err := io.ReadFull(c.c, b[:]); err != nil {
		return nil, err
	}
	r, err := parseHeader(b[:])
	if err != nil || r.id != c.id || r.command != command || r.flags&typeMask != typeReply {
		c.t.Fatalf("reply %+v to command %d: %v", r, command, err)
	}
	data := make([]byte, r.size-headerSize)
	if _, err := io.ReadFull(c.c, data); err != nil {
		return nil, err
	}
	if r.flags&flagError != 0 {
		return nil, errors.Join(errServer, unix.Errno(r.errno))
	}
	return data, nil
}

func (c *client) must(command uint16, payload []byte, fds ...int) []byte {
	c.t.Helper()
	data, err := c.ask(command, payload, fds...)
	if err != nil {
		c.t.Fatalf("command %d: %v", command, err)
	}
	return data
}

func greet(t testing.TB, path string) *client {
	t.Helper()
	c := dial(t, path)
	v, err := parseVersion(c.must(VFIO_USER_VERSION, versionMessage{Minor: 1, Capabilities: capabilities{MaxFDs: 8}}.append(nil)))
	if err != nil || v.Major != 0 || v.Minor != 1 || v.Capabilities.MaxFDs == 0 || v.Capabilities.MaxData == 0 {
		t.Fatalf("version %+v, %v", v, err)
	}
	return c
}

func (c *client) write(region uint32, offset uint64, value uint32) {
	c.t.Helper()
	a := access{offset, region, 4}
	c.must(VFIO_USER_REGION_WRITE, binary.LittleEndian.AppendUint32(a.append(nil), value))
}

func (c *client) read(region uint32, offset uint64) uint32 {
	c.t.Helper()
	return binary.LittleEndian.Uint32(c.must(VFIO_USER_REGION_READ, access{offset, region, 4}.append(nil))[accessSize:])
}

func dmaMap(iova, size, offset uint64, flags uint32) (b []byte) {
	b = u32s(32, flags)
	for _, v := range []uint64{offset, iova, size} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func dmaUnmap(iova, size uint64) (b []byte) {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(u32s(24, 0), iova), size)
}

func memfd(t testing.TB, size int64) (int, []byte) {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	data, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(data) })
	return fd, data
}

func TestRegionsAndInterrupts(t *testing.T) {
	_, path := start(t)
	c := greet(t, path)
	for region, want := range map[uint32]uint64{0: 4096, 1: 0, 4: 512, VFIO_PCI_CONFIG_REGION_INDEX: 256, 8: 0} {
		if got := binary.LittleEndian.Uint64(c.must(VFIO_USER_DEVICE_GET_REGION_INFO, append(u32s(32, 0, region, 0), make([]byte, 16)...))[16:]); got != want {
			t.Errorf("region %d has %d bytes, want %d", region, got, want)
		}
	}
	if w, _ := words(c.must(VFIO_USER_DEVICE_GET_IRQ_INFO, u32s(16, 0, VFIO_PCI_MSIX_IRQ_INDEX, 0)), 4, "reply"); w[3] != 8 {
		t.Errorf("%d vectors, want 8", w[3])
	}
	for _, region := range []uint32{0, 4, VFIO_PCI_CONFIG_REGION_INDEX} {
		c.write(region, 16, 0x12345678+region)
		if got := c.read(region, 16); got != 0x12345678+region {
			t.Errorf("region %d reads %#x", region, got)
		}
	}
	b := c.must(VFIO_USER_REGION_READ, access{17, VFIO_PCI_CONFIG_REGION_INDEX, 3}.append(nil))
	if want := []byte{0x56, 0x34, 0x12}; string(b[accessSize:]) != string(want) {
		t.Errorf("three odd bytes of the configuration: %x, want %x", b[accessSize:], want)
	}

	fd, data := memfd(t, 8192)
	call, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(call)
	// Two neighbours that lie the other way round in the file.
	c.must(VFIO_USER_DMA_MAP, dmaMap(0x10000, 4096, 4096, 3), fd)
	c.must(VFIO_USER_DMA_MAP, dmaMap(0x11000, 4096, 0, 3), fd)
	c.must(VFIO_USER_DEVICE_SET_IRQS, u32s(20, VFIO_IRQ_SET_DATA_EVENTFD|VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_MSIX_IRQ_INDEX, 3, 1), call)
	copy(data[8190:], "ab")
	copy(data[0:], "cd")
	c.write(0, 0, 0x10ffe)
	c.write(0, 4, 0x10100)
	if got := c.read(0, 8); got != 1 || string(data[4096+0x100:][:4]) != "abcd" {
		t.Fatalf("DMA ended with %#x, and the memory has %q", got, data[4096+0x100:][:4])
	}
	var count [8]byte
	if n, err := unix.Read(call, count[:]); n != 8 || err != nil {
		t.Errorf("no interrupt: %v", err)
	}
	c.must(VFIO_USER_DEVICE_SET_IRQS, u32s(20, VFIO_IRQ_SET_DATA_NONE|VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_MSIX_IRQ_INDEX, 0, 0))
	c.write(0, 4, 0x10100)
	if _, err := unix.Read(call, count[:]); err == nil {
		t.Error("an interrupt although the vectors are off")
	}
	c.must(VFIO_USER_DMA_UNMAP, dmaUnmap(0x10000, 8192))
	c.write(0, 4, 0x10100)
	if got := c.read(0, 8); got != 0xbad {
		t.Errorf("DMA to memory that was taken away: %#x", got)
	}
}

// A client that goes wrong gets an error, or loses its connection; the next one is served.
func TestHostileClients(t *testing.T) {
	card, path := start(t)
	fd, _ := memfd(t, 4096)
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer closeAll(pipe)
	for _, c := range []struct {
		name    string
		command uint16
		payload []byte
		fds     []int
		want    string // part of the error; "EOF": the connection ends
	}{
		{"an unknown command", 77, nil, nil, "function not implemented"},
		{"half a DMA_MAP", VFIO_USER_DMA_MAP, make([]byte, 31), nil, "invalid argument"},
		{"more than the file has", VFIO_USER_DMA_MAP, dmaMap(0, 8192, 0, 3), []int{fd}, "invalid argument"},
		{"an offset that wraps", VFIO_USER_DMA_MAP, dmaMap(0, 4096, ^uint64(0)-10, 3), []int{fd}, "invalid argument"},
		{"an address that wraps", VFIO_USER_DMA_MAP, dmaMap(^uint64(0)-10, 4096, 0, 3), []int{fd}, "invalid argument"},
		{"no bytes", VFIO_USER_DMA_MAP, dmaMap(0, 0, 0, 3), []int{fd}, "invalid argument"},
		{"a pipe as memory", VFIO_USER_DMA_MAP, dmaMap(0, 4096, 0, 3), pipe[:1], "invalid argument"},
		{"unmapping what is not there", VFIO_USER_DMA_UNMAP, dmaUnmap(0, 4096), nil, "no such file"},
		{"a region that does not exist", VFIO_USER_REGION_READ, access{0, 99, 4}.append(nil), nil, "invalid argument"},
		{"behind a region's end", VFIO_USER_REGION_READ, access{4094, 0, 4}.append(nil), nil, "invalid argument"},
		{"far behind a region's end", VFIO_USER_REGION_READ, access{^uint64(0), 0, 4}.append(nil), nil, "invalid argument"},
		{"too much at once", VFIO_USER_REGION_READ, access{0, 0, ^uint32(0)}.append(nil), nil, "invalid argument"},
		{"a write without its data", VFIO_USER_REGION_WRITE, access{0, 0, 64}.append(nil), nil, "invalid argument"},
		{"vectors that do not exist", VFIO_USER_DEVICE_SET_IRQS, u32s(20, 0x24, 2, 7, 2), nil, "invalid argument"},
		{"vectors that wrap", VFIO_USER_DEVICE_SET_IRQS, u32s(20, 0x24, 2, 7, ^uint32(0)), nil, "invalid argument"},
		{"version 1", VFIO_USER_VERSION, []byte{1, 0, 0, 0}, nil, "invalid argument"},
		{"broken JSON", VFIO_USER_VERSION, []byte("\x00\x00\x01\x00{"), nil, "invalid argument"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := greet(t, path)
			defer k.c.Close()
			if _, err := k.ask(c.command, c.payload, c.fds...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	t.Run("a header of garbage", func(t *testing.T) {
		k := greet(t, path)
		_, _ = k.c.Write([]byte(strings.Repeat("\xff", 64)))
		_ = k.c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := k.c.Read(make([]byte, 1)); err == nil {
			t.Error("it was answered")
		}
	})
	t.Run("a command before the version", func(t *testing.T) {
		k := dial(t, path)
		if _, err := k.ask(VFIO_USER_DEVICE_GET_INFO, u32s(16, 0, 0, 0)); err == nil {
			t.Error("it was answered")
		}
	})
	t.Run("memory that is cut off", func(t *testing.T) {
		k := greet(t, path)
		defer k.c.Close()
		fd, _ := memfd(t, 8192)
		k.must(VFIO_USER_DMA_MAP, dmaMap(0, 8192, 0, 3), fd)
		if err := unix.Ftruncate(fd, 0); err != nil {
			t.Fatal(err)
		}
		a := access{4, 0, 4}
		if _, err := k.ask(VFIO_USER_REGION_WRITE, binary.LittleEndian.AppendUint32(a.append(nil), 4096)); err == nil || !strings.Contains(err.Error(), "bad address") {
			t.Errorf("%v, want EFAULT", err)
		}
		if k.read(0, 0) != 0 {
			t.Error("the card's registers have changed")
		}
	})
	k := greet(t, path)
	k.write(0, 32, 5)
	if k.read(0, 32) != 5 {
		t.Error("the last client is not served")
	}
	card.mu.Lock()
	defer card.mu.Unlock()
	if card.resets < 15 {
		t.Errorf("the device was reset %d times, want once after each client", card.resets)
	}
}

// FuzzClient sends a client's bytes. Nothing may bring the server down.
func FuzzClient(f *testing.F) {
	message := func(command uint16, payload []byte) []byte {
		return append(header{id: 1, command: command, size: uint32(headerSize + len(payload))}.append(nil), payload...)
	}
	hello := message(VFIO_USER_VERSION, versionMessage{Minor: 1}.append(nil))
	f.Add(hello)
	f.Add(append(hello[:len(hello):len(hello)], message(VFIO_USER_DMA_MAP, dmaMap(0, 4096, 0, 3))...))
	f.Add(append(hello[:len(hello):len(hello)], message(VFIO_USER_REGION_WRITE, append(access{4, 0, 4}.append(nil), 1, 2, 3, 4))...))
	f.Add(append(hello[:len(hello):len(hello)], message(VFIO_USER_DEVICE_SET_IRQS, u32s(20, 0x24, 2, 0, 1))...))
	f.Add(append(hello[:len(hello):len(hello)], message(VFIO_USER_DMA_UNMAP, dmaUnmap(0, 4096))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		s := New(&card{}, Layout{BAR: [6]uint64{4096, 0, 0, 0, 512}, Config: 256, Vectors: 8}, nil)
		server, err := fileConn(pair[1])
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.join(&conn{socket: server}).attend()
			server.Close()
		}()
		go func() {
			discard := make([]byte, 4096)
			for {
				if n, err := unix.Read(pair[0], discard); n <= 0 || err != nil {
					return
				}
			}
		}()
		_, _ = unix.Write(pair[0], data)
		_ = unix.Shutdown(pair[0], unix.SHUT_WR)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("the server hangs")
		}
		unix.Close(pair[0])
	})
}

func fileConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}
