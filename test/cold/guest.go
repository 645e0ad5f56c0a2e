// Package cold measures what guests that start cost those that run: front-ends with much memory, whose pages are all there, and cold in the
// switch's page tables alone.
package cold

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost/user"
	"vhostkit/switchd/virtio"
	"vhostkit/test/frontend"
)

const (
	ringSize  = 256
	bufferLen = 2048
	header    = 12 // bytes before a frame (virtio 1.2, 5.1.6)
	guestBase = 0x100000000
	userBase  = 0x7d0000000000
	ringsLen  = 0x8000 // both rings at the memory's front
	availAt   = 0x2000 // from the ring's beginning
	usedAt    = 0x3000
)

// guest is a front-end with split rings. Of its memory there are islands, and its buffers lie spread over them. Memory and files survive its
// connections.
type guest struct {
	address  [6]byte
	size     int // bytes of memory
	resident int // bytes that are there, in as many islands with holes between them
	islands  int
	fd       int
	memory   []byte
	kick     [2]int
	call     [2]int
	conn     *net.UnixConn
	rx, tx   ring
	fence    guestmem.Fence
}

// ring is one vring; buffer i is described by descriptor i.
type ring struct {
	base        guestmem.Ptr
	avail, used uint16
}

// newGuest makes a guest's memory, of which that many bytes are resident, in one island or in one for each buffer. flags are memfd_create's.
func newGuest(number, size, resident, islands, flags int) (*guest, error) {
	g := &guest{address: [6]byte{2, 0, 0, 9, byte(number >> 8), byte(number)}, size: size, resident: resident, islands: islands}
	var err error
	if g.fd, err = unix.MemfdCreate("cold", unix.MFD_CLOEXEC|flags); err != nil {
		return nil, err
	}
	if err := unix.Ftruncate(g.fd, int64(size)); err != nil {
		return nil, err
	}
	if g.memory, err = unix.Mmap(g.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE); err != nil {
		return nil, err
	}
	part := resident / islands
	for i := range islands {
		if err := unix.Madvise(g.memory[i*(size/islands):][:part], unix.MADV_POPULATE_WRITE); err != nil {
			return nil, fmt.Errorf("making %d bytes of a guest resident: %w", resident, err)
		}
	}
	for i := range 2 {
		for _, fd := range []*int{&g.kick[i], &g.call[i]} {
			if *fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
				return nil, err
			}
		}
	}
	return g, nil
}

func (g *guest) close() {
	g.disconnect()
	for i := range 2 {
		unix.Close(g.kick[i])
		unix.Close(g.call[i])
	}
	_ = unix.Munmap(g.memory)
	unix.Close(g.fd)
}

func (g *guest) disconnect() {
	if g.conn != nil {
		g.conn.Close()
		g.conn = nil
	}
}

// buffer is where buffer i of the receive (0) or transmit (1) ring lies: they are spread over the islands, each far from the next.
func (g *guest) buffer(vring, i int) int {
	n, perIsland := 2*i+vring, 2*ringSize/g.islands
	stride := g.resident / (2 * ringSize) &^ 4095
	return n/perIsland*(g.size/g.islands) + n%perIsland*stride + stride - 4096
}

// prepare empties the rings and posts all receive buffers, as a driver does before the device starts.
func (g *guest) prepare() {
	clear(g.memory[:ringsLen])
	g.rx, g.tx = ring{base: guestmem.AddressOf(g.memory)}, ring{base: guestmem.AddressOf(g.memory) + ringsLen/2}
	for i := range ringSize {
		g.describe(&g.rx, i, g.buffer(0, i), bufferLen, 2)
		g.rx.post(uint16(i))
	}
	g.rx.publish()
}

func (g *guest) describe(r *ring, i, offset, size int, flags uint64) {
	d := r.base + guestmem.Ptr(16*i)
	d.StoreU64(guestBase + uint64(offset))
	(d + 8).StoreU64(uint64(size) | flags<<32)
}

func (r *ring) post(head uint16) {
	(r.base + availAt + 4 + guestmem.Ptr(2*(r.avail%ringSize))).StoreU16(head)
	r.avail++
}

func (r *ring) publish() { (r.base + availAt).StoreReleaseU32(uint32(r.avail) << 16) }

// next is a buffer that the device has returned.
func (r *ring) next() (id, written int, ok bool) {
	if uint16((r.base+usedAt).LoadAcquireU32()>>16) == r.used {
		return 0, 0, false
	}
	e := r.base + usedAt + 4 + guestmem.Ptr(8*(r.used%ringSize))
	r.used++
	return int(e.LoadU32()) % ringSize, int((e + 4).LoadU32()), true
}

// start connects to a switch and starts both rings. Every request is acknowledged, as QEMU has it.
func (g *guest) start(socket string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	g.conn = conn
	g.prepare()
	w := frontend.Wire{Conn: conn}
	features := virtio.Bits(virtio.VIRTIO_F_VERSION_1, virtio.VHOST_USER_F_PROTOCOL)
	if err := w.Tell(user.VHOST_USER_SET_PROTOCOL_FEATURES, frontend.U64(1<<user.VHOST_USER_PROTOCOL_F_REPLY_ACK)); err != nil {
		return err
	}
	w.Ack = true
	table := frontend.U32s(1, 0)
	for _, v := range []uint64{guestBase, uint64(g.size), userBase, 0} {
		table = binary.LittleEndian.AppendUint64(table, v)
	}
	err = errors.Join(w.Tell(user.VHOST_USER_SET_OWNER, nil), w.Tell(user.VHOST_USER_SET_FEATURES, frontend.U64(uint64(features))),
		w.Tell(user.VHOST_USER_SET_MEM_TABLE, table, g.fd))
	for i := range uint32(2) {
		at := userBase + uint64(i)*ringsLen/2
		addresses := frontend.U32s(i, 0)
		for _, v := range []uint64{at, at + usedAt, at + availAt, 0} {
			addresses = binary.LittleEndian.AppendUint64(addresses, v)
		}
		err = errors.Join(err, w.Tell(user.VHOST_USER_SET_VRING_NUM, frontend.U32s(i, ringSize)),
			w.Tell(user.VHOST_USER_SET_VRING_BASE, frontend.U32s(i, 0)), w.Tell(user.VHOST_USER_SET_VRING_ADDR, addresses),
			w.Tell(user.VHOST_USER_SET_VRING_CALL, frontend.U64(uint64(i)), g.call[i]),
			w.Tell(user.VHOST_USER_SET_VRING_KICK, frontend.U64(uint64(i)), g.kick[i]),
			w.Tell(user.VHOST_USER_SET_VRING_ENABLE, frontend.U32s(i, 1)))
	}
	return err
}

// send sends a frame of 100 bytes that carries a number, if a buffer is free.
func (g *guest) send(to [6]byte, number uint64) bool {
	for _, _, ok := g.tx.next(); ok; _, _, ok = g.tx.next() { // take back what was sent
	}
	if g.tx.avail-g.tx.used >= ringSize {
		return false
	}
	id := int(g.tx.avail % ringSize)
	at := g.buffer(1, id)
	frame := g.memory[at+header:][:100]
	copy(frame, to[:])
	copy(frame[6:], g.address[:])
	frame[12], frame[13] = 0x88, 0xb5
	binary.LittleEndian.PutUint64(frame[16:], number)
	g.describe(&g.tx, id, at, header+len(frame), 0)
	g.tx.post(uint16(id))
	g.tx.publish()
	g.fence.Full()
	if (g.tx.base+usedAt).LoadU16()&1 == 0 {
		_, _ = unix.Write(g.kick[1], []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	return true
}

// receive takes a frame and gives its number and its sender's last byte.
func (g *guest) receive() (number uint64, ok bool) {
	id, _, ok := g.rx.next()
	if !ok {
		return 0, false
	}
	number = binary.LittleEndian.Uint64(g.memory[g.buffer(0, id)+header+16:])
	g.rx.post(uint16(id))
	g.rx.publish()
	return number, true
}
