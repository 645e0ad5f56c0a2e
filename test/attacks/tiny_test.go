package attacks

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost/user"
	"vhostkit/switchd/virtio"
	"vhostkit/test/frontend"
)

// tiny is a front-end that costs little, so that there can be many: 64 KiB of memory and two split rings of 8. It never waits for a message's
// acknowledgement but for the last. Its receive ring has buffers, and is looked at by receive only: a tiny device that nobody asks is stuck.
type tiny struct {
	wire       *frontend.Wire
	memory     []byte
	fd         int
	kick, call [2]int
	avail      [2]uint16
	used       uint16 // receive ring
	closed     bool
}

// A ring's part of the memory, and the places in there.
const (
	tinyMemory = 64 << 10
	tinyPart   = tinyMemory / 2
	tinySize   = 8
	tinyBuffer = 256
	tinyDriver = 0x100
	tinyDevice = 0x200
	tinyData   = 0x1000
	tinyGPA    = 0x100000
	tinyUVA    = 0x7e0000000000
	tinyHeader = 12
)

func newTiny(uid int, socket string) (*tiny, error) {
	conn, err := connect(uid, socket)
	if err != nil {
		return nil, err
	}
	d := &tiny{wire: &frontend.Wire{Conn: conn}, fd: -1, kick: [2]int{-1, -1}, call: [2]int{-1, -1}}
	if err := errors.Join(d.allocate(), d.negotiate()); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *tiny) allocate() (err error) {
	if d.fd, err = unix.MemfdCreate("tiny", unix.MFD_CLOEXEC); err != nil {
		return err
	}
	if err = unix.Ftruncate(d.fd, tinyMemory); err != nil {
		return err
	}
	if d.memory, err = unix.Mmap(d.fd, 0, tinyMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	for i := range 2 {
		for slot := range tinySize {
			at := d.ring(i) + guestmem.Ptr(16*slot)
			at.StoreU64(tinyGPA + uint64(i*tinyPart+tinyData+slot*tinyBuffer))
			(at + 8).StoreU32(tinyBuffer)
			(at + 12).StoreU16(uint16(2 * (1 - i))) // the device may write into receive buffers
			(d.ring(i) + tinyDriver + 4 + guestmem.Ptr(2*slot)).StoreU16(uint16(slot))
		}
		if d.kick[i], err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return err
		}
		if d.call[i], err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return err
		}
	}
	d.offer(0, tinySize)
	return nil
}

// table is the payload of SET_MEM_TABLE for one region.
func table(gpa, size, uva uint64) []byte {
	return append(frontend.U32s(1, 0), region(gpa, size, uva)[8:]...)
}

// region is the payload of ADD_MEM_REG.
func region(gpa, size, uva uint64) []byte {
	b := make([]byte, 8)
	for _, v := range []uint64{gpa, size, uva, 0} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// addresses is the payload of SET_VRING_ADDR.
func addresses(i uint32, desc, device, driver uint64) []byte {
	b := frontend.U32s(i, 0)
	for _, v := range []uint64{desc, device, driver, 0} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func (d *tiny) negotiate() error {
	w := d.wire
	features := virtio.Bits(virtio.VIRTIO_F_VERSION_1, virtio.VHOST_USER_F_PROTOCOL)
	err := errors.Join(
		w.Tell(user.VHOST_USER_SET_FEATURES, frontend.U64(uint64(features))),
		w.Tell(user.VHOST_USER_SET_PROTOCOL_FEATURES, frontend.U64(0)),
		w.Tell(user.VHOST_USER_SET_OWNER, nil),
		w.Tell(user.VHOST_USER_SET_MEM_TABLE, table(tinyGPA, tinyMemory, tinyUVA), d.fd))
	for i := range uint32(2) {
		at := tinyUVA + uint64(i*tinyPart)
		err = errors.Join(err,
			w.Tell(user.VHOST_USER_SET_VRING_NUM, frontend.U32s(i, tinySize)),
			w.Tell(user.VHOST_USER_SET_VRING_BASE, frontend.U32s(i, 0)),
			w.Tell(user.VHOST_USER_SET_VRING_ADDR, addresses(i, at, at+tinyDevice, at+tinyDriver)),
			w.Tell(user.VHOST_USER_SET_VRING_CALL, frontend.U64(uint64(i)), d.call[i]),
			w.Tell(user.VHOST_USER_SET_VRING_KICK, frontend.U64(uint64(i)), d.kick[i]),
			w.Tell(user.VHOST_USER_SET_VRING_ENABLE, frontend.U32s(i, 1)))
	}
	if err != nil {
		return err
	}
	_, err = w.Ask(user.VHOST_USER_GET_FEATURES, nil) // all that was taken
	return err
}

func (d *tiny) ring(i int) guestmem.Ptr { return guestmem.AddressOf(d.memory[i*tinyPart:]) }

func (d *tiny) data(i, slot int) []byte {
	return d.memory[i*tinyPart+tinyData+slot*tinyBuffer:][:tinyBuffer]
}

func (d *tiny) offer(i int, n uint16) {
	d.avail[i] += n
	(d.ring(i) + tinyDriver).StoreReleaseU32(uint32(d.avail[i]) << 16)
}

// send sends a frame; nobody waits for room: 8 at a time.
func (d *tiny) send(f []byte) {
	slot := int(d.avail[1]) % tinySize
	b := d.data(1, slot)
	clear(b[:tinyHeader])
	copy(b[tinyHeader:], f)
	(d.ring(1) + guestmem.Ptr(16*slot+8)).StoreU32(uint32(tinyHeader + len(f)))
	d.offer(1, 1)
	_, _ = unix.Write(d.kick[1], []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// receive waits for a frame; nil: none came.
func (d *tiny) receive(limit time.Duration) []byte {
	for end := time.Now().Add(limit); uint16((d.ring(0)+tinyDevice).LoadAcquireU32()>>16) == d.used; {
		if time.Now().After(end) {
			return nil
		}
		time.Sleep(20 * time.Microsecond)
	}
	e := d.ring(0) + tinyDevice + 4 + guestmem.Ptr(8*(d.used%tinySize))
	slot, n := int(e.LoadU32()), int((e + 4).LoadU32())
	f := append([]byte(nil), d.data(0, slot)[tinyHeader:n]...)
	(d.ring(0) + tinyDriver + 4 + guestmem.Ptr(2*(d.avail[0]%tinySize))).StoreU16(uint16(slot))
	d.used++
	d.offer(0, 1)
	return f
}

// close ends the connection and frees everything. Closing twice is fine.
func (d *tiny) close() {
	if d.closed {
		return
	}
	d.closed = true
	d.wire.Conn.Close()
	for _, fd := range []int{d.fd, d.kick[0], d.kick[1], d.call[0], d.call[1]} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if d.memory != nil {
		_ = unix.Munmap(d.memory)
	}
}
