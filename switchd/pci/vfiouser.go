package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// Commands of vfio-user (QEMU's documentation, interop/vfio-user).
const (
	vfioUserVersion     = 1
	vfioUserDMAMap      = 2
	vfioUserDMAUnmap    = 3
	vfioUserRegionInfo  = 5
	vfioUserIRQInfo     = 7
	vfioUserSetIRQs     = 8
	vfioUserRegionRead  = 9
	vfioUserRegionWrite = 10
	vfioUserReset       = 13

	vfioUserReply   = 1
	vfioUserNoReply = 1 << 4
	vfioUserError   = 1 << 5

	vfioUserHeader = 16
	vfioUserLimit  = 4096 // bytes of a reply that this client takes
)

// vfioUser is a device that another process serves. Memory goes there by file descriptor; registers are messages.
type vfioUser struct {
	mappings
	path string

	mu     sync.Mutex
	socket *net.UnixConn
	id     uint16
	failed error // the first failure: the connection is of no use after it
	irqs   int
}

// vfioUserPatience is how long the other process may take for an answer.
const vfioUserPatience = 10 * time.Second

func dialVFIOUser(path string) (Device, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the device at %s%s: %w", vfioUserPrefix, path, err)
	}
	u := &vfioUser{path: path, socket: c}
	u.next = dmaBase(1<<39 - 1)
	if err := u.greet(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return u, nil
}

func (u *vfioUser) greet() error {
	hello := append([]byte{0, 0, 1, 0}, `{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":4096}}`...)
	if _, err := u.ask(vfioUserVersion, append(hello, 0)); err != nil {
		return err
	}
	answer, err := u.ask(vfioUserIRQInfo, words(16, 0, VFIO_PCI_MSIX, 0))
	if err == nil && len(answer) >= 16 {
		u.irqs = int(binary.LittleEndian.Uint32(answer[12:]))
	}
	if err != nil {
		return err
	}
	return enableBusMaster(u)
}

func words(list ...uint32) (b []byte) {
	for _, w := range list {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

func quads(b []byte, list ...uint64) []byte {
	for _, q := range list {
		b = binary.LittleEndian.AppendUint64(b, q)
	}
	return b
}

// ask sends a command and waits for its reply.
func (u *vfioUser) ask(command uint16, payload []byte, fds ...int) ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed != nil {
		return nil, u.failed
	}
	answer, failure, err := u.exchange(command, payload, fds)
	if err != nil {
		u.failed = fmt.Errorf("the device at %s%s does not answer: %w", vfioUserPrefix, u.path, err)
		return nil, u.failed
	}
	if failure != 0 {
		return nil, fmt.Errorf("the device at %s%s refuses command %d: %w", vfioUserPrefix, u.path, command, failure)
	}
	return answer, nil
}

func (u *vfioUser) send(command uint16, flags uint32, payload []byte, fds []int) error {
	u.id++
	b := make([]byte, vfioUserHeader, vfioUserHeader+len(payload))
	binary.LittleEndian.PutUint16(b, u.id)
	binary.LittleEndian.PutUint16(b[2:], command)
	binary.LittleEndian.PutUint32(b[4:], uint32(vfioUserHeader+len(payload)))
	binary.LittleEndian.PutUint32(b[8:], flags)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_ = u.socket.SetDeadline(time.Now().Add(vfioUserPatience))
	_, _, err := u.socket.WriteMsgUnix(append(b, payload...), rights, nil)
	return err
}

func (u *vfioUser) exchange(command uint16, payload []byte, fds []int) (answer []byte, failure unix.Errno, err error) {
	if err := u.send(command, 0, payload, fds); err != nil {
		return nil, 0, err
	}
	var h [vfioUserHeader]byte
	if _, err := io.ReadFull(u.socket, h[:]); err != nil {
		return nil, 0, err
	}
	le := binary.LittleEndian
	size, flags := le.Uint32(h[4:]), le.Uint32(h[8:])
	if le.Uint16(h[0:]) != u.id || le.Uint16(h[2:]) != command || flags&0xf != vfioUserReply || size < vfioUserHeader || size > vfioUserLimit {
		return nil, 0, fmt.Errorf("an answer out of turn: %x", h)
	}
	answer = make([]byte, size-vfioUserHeader)
	if _, err := io.ReadFull(u.socket, answer); err != nil {
		return nil, 0, err
	}
	if flags&vfioUserError != 0 {
		return nil, max(1, unix.Errno(le.Uint32(h[12:]))), nil
	}
	return answer, 0, nil
}

func (u *vfioUser) Address() string { return vfioUserPrefix + u.path }
func (u *vfioUser) Access() string  { return "vfio-user" }

// read reads 1, 2 or 4 bytes of a region.
func (u *vfioUser) read(region uint32, offset uint64, size int) (uint32, error) {
	answer, err := u.ask(vfioUserRegionRead, append(quads(nil, offset), words(region, uint32(size))...))
	if err != nil {
		return 0, err
	}
	if len(answer) != 16+size {
		return 0, fmt.Errorf("the device at %s%s answers a read of %d bytes with %d", vfioUserPrefix, u.path, size, len(answer)-16)
	}
	var b [4]byte
	copy(b[:], answer[16:])
	return binary.LittleEndian.Uint32(b[:]), nil
}

func writeMessage(region uint32, offset uint64, size int, value uint32) []byte {
	b := append(quads(nil, offset), words(region, uint32(size), value)...)
	return b[:16+size]
}

func (u *vfioUser) ReadConfig(offset, size int) (uint32, error) {
	if offset < 0 || size != 1 && size != 2 && size != 4 {
		return 0, fmt.Errorf("read %d bytes at %#x of the configuration", size, offset)
	}
	return u.read(VFIO_PCI_CONFIG, uint64(offset), size)
}

func (u *vfioUser) WriteConfig(offset, size int, value uint32) error {
	if offset < 0 || size != 1 && size != 2 && size != 4 {
		return fmt.Errorf("write %d bytes at %#x of the configuration", size, offset)
	}
	_, err := u.ask(vfioUserRegionWrite, writeMessage(VFIO_PCI_CONFIG, uint64(offset), size, value))
	return err
}

// userRegisters are a BAR that is read and written by messages.
type userRegisters struct {
	u     *vfioUser
	index uint32
	size  int
}

func (u *vfioUser) BAR(index int) (Registers, error) {
	answer, err := u.ask(vfioUserRegionInfo, quads(words(32, 0, uint32(index), 0), 0, 0))
	if err != nil {
		return nil, err
	}
	if len(answer) < 32 || binary.LittleEndian.Uint64(answer[16:]) == 0 {
		return nil, fmt.Errorf("map BAR %d of %s%s: %w: it is not there", index, vfioUserPrefix, u.path, ErrUnsupported)
	}
	return &userRegisters{u, uint32(index), int(binary.LittleEndian.Uint64(answer[16:]))}, nil
}

// Read32 gives all ones when the device is gone, as the bus does.
func (r *userRegisters) Read32(offset uint32) uint32 {
	r.check(offset)
	v, err := r.u.read(r.index, uint64(offset), 4)
	if err != nil {
		return 0xffffffff
	}
	return v
}

// Write32 does not wait for the device, as on the bus.
func (r *userRegisters) Write32(offset, value uint32) {
	r.check(offset)
	r.u.mu.Lock()
	defer r.u.mu.Unlock()
	if r.u.failed == nil {
		r.u.failed = r.u.send(vfioUserRegionWrite, vfioUserNoReply, writeMessage(r.index, uint64(offset), 4, value), nil)
	}
}

func (r *userRegisters) check(offset uint32) {
	if offset%4 != 0 || int(offset)+4 > r.size {
		panic(fmt.Sprintf("register at %#x of %d bytes", offset, r.size))
	}
}

func (r *userRegisters) Len() int { return r.size }

func (u *vfioUser) AllocDMA(bytes int) (DMA, error) { return u.alloc(bytes, u.mapDMA) }
func (u *vfioUser) FreeDMA(d DMA) error             { return u.free(d, u.unmapDMA) }

func (u *vfioUser) mapDMA(_ guestmem.Ptr, iova, bytes uint64, fd int, offset uint64) error {
	return u.mapFor(VFIO_DMA_MAP_READ|VFIO_DMA_MAP_WRITE, iova, bytes, fd, offset)
}

func (u *vfioUser) mapForReading(_ guestmem.Ptr, iova, bytes uint64, fd int, offset uint64) error {
	return u.mapFor(VFIO_DMA_MAP_READ, iova, bytes, fd, offset)
}

func (u *vfioUser) mapFor(access uint32, iova, bytes uint64, fd int, offset uint64) error {
	_, err := u.ask(vfioUserDMAMap, quads(words(32, access), offset, iova, bytes), fd)
	return err
}

func (u *vfioUser) unmapDMA(iova, bytes uint64) error {
	_, err := u.ask(vfioUserDMAUnmap, quads(words(24, 0), iova, bytes))
	return err
}

// MapRegion needs the file: the other process has to map it, too.
func (u *vfioUser) MapRegion(r Region) (uint64, error) {
	if r.FD < 0 {
		return 0, fmt.Errorf("map %d bytes for %s%s: %w: their file is not at hand", r.Size, vfioUserPrefix, u.path, ErrUnsupported)
	}
	return u.region(r, u.mapForReading)
}

func (u *vfioUser) UnmapRegion(iova, bytes uint64) error {
	err := u.unmapDMA(iova, bytes)
	if err == nil {
		u.vacate(iova, bytes)
	}
	return err
}

func (u *vfioUser) Interrupt(vector, eventfd int) error {
	if vector < 0 || vector >= u.irqs {
		return fmt.Errorf("vector %d of %s%s: %w: it has %d", vector, vfioUserPrefix, u.path, ErrUnsupported, u.irqs)
	}
	if eventfd < 0 {
		_, err := u.ask(vfioUserSetIRQs, words(20, VFIO_IRQ_TRIGGER|VFIO_IRQ_EVENTFD, VFIO_PCI_MSIX, uint32(vector), 1))
		return err
	}
	_, err := u.ask(vfioUserSetIRQs, words(20, VFIO_IRQ_TRIGGER|VFIO_IRQ_EVENTFD, VFIO_PCI_MSIX, uint32(vector), 1), eventfd)
	return err
}

func (u *vfioUser) Reset() error {
	if _, err := u.ask(vfioUserReset, nil); err != nil {
		return err
	}
	return enableBusMaster(u)
}

func (u *vfioUser) Close() error {
	err := u.freeAll(u.unmapDMA)
	if u.failed != nil {
		err = nil // it is gone, and its view of our memory with it
	}
	return errors.Join(err, u.socket.Close())
}
