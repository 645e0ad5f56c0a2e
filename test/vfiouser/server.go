package vfiouser

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Device is what is served: a PCI function with registers in BAR 0 and its MSI-X table in another. Its methods are called by one goroutine at a
// time.
type Device interface {
	// ReadBAR and WriteBAR are accesses to BAR 0, of 32 bits at multiples of 4.
	ReadBAR(offset uint32) uint32
	WriteBAR(offset, value uint32)
	// ReadConfig and WriteConfig are accesses of 1, 2 or 4 bytes to the configuration space.
	ReadConfig(offset, size int) (uint32, error)
	WriteConfig(offset, size int, value uint32) error
	// SetMemory gives the device the memory that it may use from now on; nil: none. When it returns, the device no longer uses what it had before.
	SetMemory(*Memory)
	// SetInterrupt gives the way to signal an MSI-X vector; nil: none.
	SetInterrupt(func(vector int))
	Reset()
}

// Layout are the sizes that a client asks for, in bytes: of BAR 0 to 5, the configuration space, and the number of MSI-X vectors.
type Layout struct {
	BAR     [6]uint64
	Config  uint64
	Vectors int
}

// Server serves one device. Several clients may be connected; the device is one's at a time.
type Server struct {
	device  Device
	layout  Layout
	log     *slog.Logger
	others  [6][]byte // BARs without registers: plain memory
	limits  limits
	clients clients
}

// New makes a server.
func New(d Device, l Layout, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{device: d, layout: l, log: log, limits: defaultLimits}
	for i := 1; i < len(l.BAR); i++ {
		s.others[i] = make([]byte, l.BAR[i])
	}
	return s
}

// Serve listens on a Unix socket until the context ends. A client that goes wrong loses its connection, no more.
func (s *Server) Serve(ctx context.Context, path string) error {
	_ = os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("serve a device on %s: %w", path, err)
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var attending sync.WaitGroup
	defer attending.Wait()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("serve a device on %s: %w", path, err)
		}
		x := s.join(&conn{socket: c, patience: s.limits.write})
		attending.Add(1)
		go func() {
			defer attending.Done()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			if err := x.attend(); err != nil && ctx.Err() == nil {
				s.log.Warn("the client's connection ended", "error", err)
			}
			_ = c.Close()
		}()
	}
}

// attend serves one client until it leaves.
func (x *session) attend() (err error) {
	defer x.leave()
	s, c := x.Server, x.conn
	for {
		h, payload, fds, err := c.receive()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && x.dropped.Load():
			return errSilent
		case err != nil:
			return err
		}
		x.heard.Store(time.Now().UnixNano())
		fds, answer, failure := x.safely(h, payload, fds)
		closeAll(fds)
		if failure != nil {
			s.log.Debug("a request failed", "command", h.command, "error", failure)
		}
		if err := c.reply(h, answer, failure); err != nil {
			return err
		}
		if errors.Is(failure, ErrProtocol) {
			return failure
		}
	}
}

// safely carries a command out. Memory that the client has cut off below us is a fault of its own.
func (x *session) safely(h header, payload []byte, fds []int) (rest []int, answer []byte, err error) {
	rest = fds
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(interface{ Addr() uintptr })
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("the client's memory is gone at %#x: %w", fault.Addr(), unix.EFAULT)
		}
	}()
	return x.command(h, payload, fds)
}

// command carries a command out and gives the descriptors that are left, and the reply's payload.
func (x *session) command(h header, b []byte, fds []int) (rest []int, answer []byte, err error) {
	if h.flags&typeMask != typeCommand {
		return fds, nil, fmt.Errorf("%w: a message of type %d, not a command", ErrProtocol, h.flags&typeMask)
	}
	if !x.greeted && h.command != VFIO_USER_VERSION {
		return fds, nil, fmt.Errorf("%w: command %d before VERSION", ErrProtocol, h.command)
	}
	if needsDevice(h.command) {
		if err := x.claim(); err != nil {
			return fds, nil, fmt.Errorf("command %d: %w", h.command, err)
		}
	}
	switch h.command {
	case VFIO_USER_VERSION:
		answer, err = x.version(b)
	case VFIO_USER_DMA_MAP:
		err = x.dmaMap(b, fds)
	case VFIO_USER_DMA_UNMAP:
		answer, err = x.dmaUnmap(b)
	case VFIO_USER_DEVICE_GET_INFO:
		answer = u32s(16, VFIO_DEVICE_FLAGS_PCI|VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_NUM_REGIONS, VFIO_PCI_NUM_IRQS)
	case VFIO_USER_DEVICE_GET_REGION_INFO:
		answer, err = x.regionInfo(b)
	case VFIO_USER_DEVICE_GET_IRQ_INFO:
		answer, err = x.irqInfo(b)
	case VFIO_USER_DEVICE_SET_IRQS:
		var m setIRQs
		if m, err = parseSetIRQs(b); err == nil {
			fds, err = x.vectors.set(m, fds)
		}
	case VFIO_USER_REGION_READ:
		answer, err = x.read(b)
	case VFIO_USER_REGION_WRITE:
		answer, err = x.write(b)
	case VFIO_USER_DEVICE_RESET:
		x.device.Reset()
	default:
		err = fmt.Errorf("command %d: %w", h.command, unix.ENOSYS)
	}
	return fds, answer, err
}

func (x *session) version(b []byte) ([]byte, error) {
	v, err := parseVersion(b)
	if err != nil {
		return nil, err
	}
	if v.Major != 0 {
		return nil, fmt.Errorf("%w: version %d.%d of the protocol; this server has 0.1", ErrProtocol, v.Major, v.Minor)
	}
	x.greeted = true
	return versionMessage{Minor: min(v.Minor, 1), Capabilities: capabilities{MaxFDs: toldFDs, MaxData: maxData, PageSizes: 4096, MaxDMAMaps: toldAreas}}.append(nil), nil
}

func (x *session) dmaMap(b []byte, fds []int) error {
	m, err := parseDMAMap(b)
	if err != nil {
		return err
	}
	fd := -1
	if len(fds) > 0 {
		fd = fds[0]
	}
	return x.memory.Map(m.address, m.size, m.offset, m.flags&VFIO_USER_F_DMA_REGION_WRITE != 0, fd)
}

// unmapAll is DMA_UNMAP's flag for everything.
const unmapAll = 1 << 1

func (x *session) dmaUnmap(b []byte) ([]byte, error) {
	m, err := parseDMAUnmap(b)
	if err != nil {
		return nil, err
	}
	if m.flags&unmapAll != 0 {
		x.memory.UnmapAll()
	} else if err := x.memory.Unmap(m.address, m.size); err != nil {
		return nil, err
	}
	return b[:24], nil
}

func (x *session) size(region uint32) uint64 {
	switch {
	case region <= VFIO_PCI_BAR5_REGION_INDEX:
		return x.layout.BAR[region]
	case region == VFIO_PCI_CONFIG_REGION_INDEX:
		return x.layout.Config
	}
	return 0
}

func (x *session) regionInfo(b []byte) ([]byte, error) {
	w, err := words(b, 3, "GET_REGION_INFO")
	if err != nil {
		return nil, err
	}
	if w[2] >= VFIO_PCI_NUM_REGIONS {
		return nil, fmt.Errorf("region %d: %w", w[2], unix.EINVAL)
	}
	size, flags := x.size(w[2]), uint32(0)
	if size > 0 {
		flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
	}
	answer := u32s(32, flags, w[2], 0)
	answer = binary.LittleEndian.AppendUint64(answer, size)
	return binary.LittleEndian.AppendUint64(answer, 0), nil
}

func (x *session) irqInfo(b []byte) ([]byte, error) {
	w, err := words(b, 3, "GET_IRQ_INFO")
	if err != nil {
		return nil, err
	}
	switch {
	case w[2] >= VFIO_PCI_NUM_IRQS:
		return nil, fmt.Errorf("interrupts of kind %d: %w", w[2], unix.EINVAL)
	case w[2] == VFIO_PCI_MSIX_IRQ_INDEX:
		return u32s(16, VFIO_IRQ_INFO_EVENTFD|VFIO_IRQ_INFO_NORESIZE, w[2], uint32(x.layout.Vectors)), nil
	}
	return u32s(16, 0, w[2], 0), nil
}

func u32s(list ...uint32) (b []byte) {
	for _, w := range list {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}
