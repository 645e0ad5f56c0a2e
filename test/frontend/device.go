package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost/user"
	"vhostkit/switchd/virtio"
)

// Config describes a front-end.
type Config struct {
	Socket     string // of the back-end
	Packed     bool
	Mergeable  bool
	EventIdx   bool
	InOrder    bool
	Legacy     bool // no VERSION_1: a header of 10 bytes unless Mergeable
	Layout     Layout
	RingSize   int  // default 256
	Buffer     int  // bytes of a buffer with its header; default 2048
	QueuePairs int  // default 1
	NoRings    bool // connect and negotiate, but start no rings
	// More are features that are acknowledged beside those, whether the back-end offers them or not.
	More virtio.Features
}

// Guest addresses begin here: neither at 0 nor where the front-end itself has its memory.
const (
	guestBase = 0x40000000
	userBase  = 0x7e0000000000
)

// Device is a connected front-end.
type Device struct {
	Wire
	Features virtio.Features
	Memory   []byte
	MemoryFD int
	Header   int
	RX, TX   []*Ring
	config   Config
	fence    guestmem.Fence
	closed   bool
}

// Dial connects to a back-end, negotiates and starts the rings. Receive rings are filled with buffers.
func Dial(c Config) (*Device, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.Socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return Attach(conn, c)
}

// Attach does the same on a connection that is there already.
func Attach(conn *net.UnixConn, c Config) (*Device, error) {
	if c.RingSize == 0 {
		c.RingSize = 256
	}
	if c.Buffer == 0 {
		c.Buffer = 2048
	}
	c.QueuePairs = max(c.QueuePairs, 1)
	d := &Device{Wire: Wire{Conn: conn}, config: c, MemoryFD: -1}
	err := d.negotiate()
	if err == nil {
		err = d.share()
	}
	if err == nil && !c.NoRings {
		err = d.start()
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (c Config) wanted() virtio.Features {
	f := virtio.Bits(virtio.VIRTIO_F_INDIRECT_DESC, virtio.VHOST_USER_F_PROTOCOL)
	for bit, on := range map[int]bool{
		virtio.VIRTIO_F_RING_PACKED: c.Packed, virtio.VIRTIO_NET_F_MRG_RXBUF: c.Mergeable, virtio.VIRTIO_F_EVENT_IDX: c.EventIdx,
		virtio.VIRTIO_F_IN_ORDER: c.InOrder, virtio.VIRTIO_F_VERSION_1: !c.Legacy, virtio.VIRTIO_NET_F_MQ: c.QueuePairs > 1,
	} {
		if on {
			f |= virtio.Bits(bit)
		}
	}
	return f
}

func (d *Device) negotiate() error {
	answer, err := d.Ask(user.VHOST_USER_GET_FEATURES, nil)
	if err != nil {
		return err
	}
	offered := virtio.Features(binary.LittleEndian.Uint64(answer))
	d.Features = d.config.wanted()
	if missing := d.Features &^ offered; missing != 0 {
		return fmt.Errorf("the back-end does not offer %v", missing.Names())
	}
	d.Features |= d.config.More
	d.Header = d.Features.HeaderSize()
	if answer, err = d.Ask(user.VHOST_USER_GET_PROTOCOL_FEATURES, nil); err != nil {
		return err
	}
	protocol := binary.LittleEndian.Uint64(answer) & (1<<user.VHOST_USER_PROTOCOL_F_REPLY_ACK | 1<<user.VHOST_USER_PROTOCOL_F_MQ)
	if err := d.Tell(user.VHOST_USER_SET_PROTOCOL_FEATURES, U64(protocol)); err != nil {
		return err
	}
	d.Ack = protocol>>user.VHOST_USER_PROTOCOL_F_REPLY_ACK&1 == 1
	if err := d.Tell(user.VHOST_USER_SET_OWNER, nil); err != nil {
		return err
	}
	return d.Tell(user.VHOST_USER_SET_FEATURES, U64(uint64(d.Features)))
}

// share makes the memory and passes it on.
func (d *Device) share() error {
	size := 2 * d.config.QueuePairs * ringBytes
	var err error
	if d.MemoryFD, err = unix.MemfdCreate("frontend", unix.MFD_CLOEXEC); err != nil {
		return err
	}
	if err := unix.Ftruncate(d.MemoryFD, int64(size)); err != nil {
		return err
	}
	if d.Memory, err = unix.Mmap(d.MemoryFD, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	return d.Tell(user.VHOST_USER_SET_MEM_TABLE, MemTable(uint64(size)), d.MemoryFD)
}

// MemTable is the payload of SET_MEM_TABLE for one region of that size at the usual addresses.
func MemTable(size uint64) []byte {
	b := U32s(1, 0)
	for _, v := range []uint64{guestBase, size, userBase, 0} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func (d *Device) start() error {
	for i := range 2 * d.config.QueuePairs {
		r, err := d.newRing(i)
		if err != nil {
			return err
		}
		if i%2 == 0 {
			d.RX = append(d.RX, r)
		} else {
			d.TX = append(d.TX, r)
		}
		if err := d.StartRing(i, r); err != nil {
			return err
		}
	}
	for _, r := range d.RX {
		if err := d.refill(r); err != nil {
			return err
		}
	}
	return nil
}

func (d *Device) newRing(i int) (*Ring, error) {
	c := d.config
	if c.RingSize > maxRingSize || c.RingSize*c.Buffer > ringBytes-dataAt {
		return nil, fmt.Errorf("a ring of %d buffers of %d bytes does not fit the memory", c.RingSize, c.Buffer)
	}
	r := &Ring{
		Base: guestmem.AddressOf(d.Memory[i*ringBytes:]), GPA: guestBase + uint64(i*ringBytes), Size: c.RingSize, Buffer: c.Buffer,
		packed: c.Packed, eventIdx: c.EventIdx, write: i%2 == 0, layout: c.Layout, slots: c.RingSize, availWrap: true, usedWrap: true,
		taken: map[int]int{}, Kick: -1, Call: -1,
	}
	for id := range c.RingSize / r.slotsPerBuffer() {
		r.free = append(r.free, id)
	}
	var err error
	if r.Kick, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, err
	}
	r.Call, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return r, err
}

// StartRing tells the back-end about vring i and enables it.
func (d *Device) StartRing(i int, r *Ring) error {
	at := userBase + uint64(i*ringBytes)
	addresses := U32s(uint32(i), 0)
	for _, v := range []uint64{at, at + deviceAt, at + driverAt, 0} {
		addresses = binary.LittleEndian.AppendUint64(addresses, v)
	}
	base := uint32(0)
	if r.packed {
		base = 1 << 15
	}
	return errors.Join(
		d.Tell(user.VHOST_USER_SET_VRING_NUM, U32s(uint32(i), uint32(r.Size))),
		d.Tell(user.VHOST_USER_SET_VRING_BASE, U32s(uint32(i), base)),
		d.Tell(user.VHOST_USER_SET_VRING_ADDR, addresses),
		d.Tell(user.VHOST_USER_SET_VRING_CALL, U64(uint64(i)), r.Call),
		d.Tell(user.VHOST_USER_SET_VRING_KICK, U64(uint64(i)), r.Kick),
		d.Tell(user.VHOST_USER_SET_VRING_ENABLE, U32s(uint32(i), 1)),
	)
}

// refill gives the device every receive buffer that is ours.
func (d *Device) refill(r *Ring) error {
	for len(r.free) > 0 {
		id := r.free[len(r.free)-1]
		if err := r.add(id, r.Buffer, d.Header); err != nil {
			return err
		}
		r.free = r.free[:len(r.free)-1]
	}
	return nil
}

// Send sends a frame on a queue pair, waiting for a free buffer if need be.
func (d *Device) Send(pair int, frame []byte) error {
	return d.SendSized(pair, frame, d.Header+len(frame))
}

// SendSized sends a buffer of that many bytes, header included, whatever the frame's length.
func (d *Device) SendSized(pair int, frame []byte, size int) error {
	r := d.TX[pair]
	for end := time.Now().Add(timeout); len(r.free) == 0; {
		id, _, ok := r.take()
		if ok {
			r.free = append(r.free, id)
		} else if time.Now().After(end) {
			return fmt.Errorf("%w: no buffer came back within %v", ErrFull, timeout)
		} else {
			time.Sleep(20 * time.Microsecond)
		}
	}
	id := r.free[0]
	r.free = r.free[1:]
	b := r.Data(id).Bytes(r.Buffer)
	clear(b[:d.Header])
	copy(b[d.Header:], frame)
	if err := r.add(id, size, d.Header); err != nil {
		return err
	}
	r.KickIfWanted(&d.fence)
	return nil
}

// Reclaim takes back sent buffers and returns how many there were.
func (d *Device) Reclaim(pair int) int {
	r := d.TX[pair]
	n := 0
	for {
		id, _, ok := r.take()
		if !ok {
			return n
		}
		r.free = append(r.free, id)
		n++
	}
}

// ErrNothing says that no frame came in time.
var ErrNothing = errors.New("no frame came")

// Receive returns the next frame of a queue pair, looking for it now and then.
func (d *Device) Receive(pair int, limit time.Duration) ([]byte, error) {
	return d.receive(pair, limit, func() { time.Sleep(10 * time.Microsecond) })
}

// Spin is Receive without sleeping, for measuring.
func (d *Device) Spin(pair int, limit time.Duration) ([]byte, error) {
	return d.receive(pair, limit, func() {})
}

func (d *Device) receive(pair int, limit time.Duration, pause func()) ([]byte, error) {
	r := d.RX[pair]
	var frame []byte
	for left, end := 0, time.Now().Add(limit); ; {
		id, written, ok := r.take()
		if !ok {
			if time.Now().After(end) {
				return nil, ErrNothing
			}
			pause()
			continue
		}
		b := r.Data(id).Bytes(r.Buffer)
		if left == 0 { // the first buffer of a frame
			if written < d.Header || written > r.Buffer {
				return nil, fmt.Errorf("the device wrote %d bytes into a buffer of %d", written, r.Buffer)
			}
			left = 1
			if d.config.Mergeable {
				left = int(binary.LittleEndian.Uint16(b[10:]))
			}
			frame = append(frame, b[d.Header:written]...)
		} else {
			frame = append(frame, b[:written]...)
		}
		r.free = append(r.free, id)
		if err := d.refill(r); err != nil {
			return nil, err
		}
		if left--; left == 0 {
			return frame, nil
		}
	}
}

// Close ends the connection and frees everything. Closing twice is fine.
func (d *Device) Close() {
	if d.closed {
		return
	}
	d.closed = true
	d.Conn.Close()
	for _, r := range append(d.RX, d.TX...) {
		unix.Close(r.Kick)
		unix.Close(r.Call)
	}
	if d.MemoryFD >= 0 {
		unix.Close(d.MemoryFD)
	}
	if d.Memory != nil {
		_ = unix.Munmap(d.Memory)
	}
}
