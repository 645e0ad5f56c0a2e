package attacks

import (
	"context"
	"encoding/binary"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost/user"
	"vhostkit/switchd/virtio"
	"vhostkit/test/frontend"
)

func ctx() context.Context { return context.Background() }

// pump keeps a split ring full without waiting for anything: all that the device has used is offered again at once.
type pump struct {
	r     *frontend.Ring
	size  uint16
	avail uint16
	fill  func(slot guestmem.Ptr, n uint16) // before a buffer is offered; may be nil
}

// newPump describes each buffer of a transmit ring as the same length of bytes: a header of zeros, unless header is given, and f.
func newPump(d *frontend.Device, r *frontend.Ring, header, f []byte) *pump {
	p := &pump{r: r, size: uint16(r.Size)}
	if header == nil {
		header = make([]byte, d.Header)
	}
	for slot := range r.Size {
		copy(r.Data(slot).Bytes(r.Buffer), append(append([]byte(nil), header...), f...))
		at := r.Desc() + guestmem.Ptr(16*slot)
		at.StoreU64(r.GPA + uint64(r.Data(slot)-r.Base))
		(at + 8).StoreU32(uint32(len(header) + len(f)))
		(at + 12).StoreU32(0)
		(r.Driver() + 4 + guestmem.Ptr(2*slot)).StoreU16(uint16(slot))
	}
	return p
}

// turn offers what may be offered, and returns how much that was.
func (p *pump) turn() int {
	used := uint16(p.r.Device().LoadAcquireU32() >> 16)
	n := used + p.size - p.avail
	if n == 0 {
		return 0
	}
	for i := range n {
		if p.fill != nil {
			slot := (p.avail + i) % p.size
			p.fill(p.r.Data(int(slot)), p.avail+i)
		}
	}
	p.avail += n
	p.r.Driver().StoreReleaseU32(uint32(p.avail) << 16)
	p.r.KickNow()
	return int(n)
}

// pumping turns pumps until the scene stops.
func (s *scene) pumping(pumps ...*pump) {
	for !s.stop.Load() {
		n := 0
		for _, p := range pumps {
			n += p.turn()
		}
		s.hits.Add(int64(n))
		if n == 0 {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 20_000}, nil)
		}
	}
}

// broadcastFlood: broadcasts as fast as the switch takes them, into ports that do not take them (strangers 8).
func broadcastFlood(s *scene) {
	d := s.device(frontend.Config{})
	if d == nil {
		return
	}
	defer d.Close()
	stuck, close := s.devices(8, frontend.Config{RingSize: 8})
	defer close()
	_ = stuck
	s.pumping(newPump(d, d.TX[0], nil, frame(broadcast, address(0xb1), 60)))
}

// trickle: receivers that offer one buffer now and then, so that a switch that waits for them waits all the time (audit 19).
func trickle(s *scene) {
	d := s.device(frontend.Config{})
	if d == nil {
		return
	}
	defer d.Close()
	receivers, close := s.devices(10, frontend.Config{RingSize: 64})
	defer close()
	p := newPump(d, d.TX[0], nil, frame(broadcast, address(0xb2), 60))
	for !s.stop.Load() {
		s.hits.Add(int64(p.turn()))
		for begin := time.Now(); time.Since(begin) < 40*time.Microsecond; {
			runtime.Gosched()
		}
		for _, g := range receivers {
			r := g.RX[0]
			used, avail := uint16(r.Device().LoadAcquireU32()>>16), (r.Driver() + 2).LoadU16()
			if used == avail { // all of it is used up: one more
				r.Driver().StoreReleaseU32(uint32(avail+1) << 16)
			}
		}
	}
}

// longChains: 8 receivers whose only buffer has 32768 descriptors and no room for a frame, and 8 senders of broadcasts (audit 6).
func longChains(s *scene) {
	for range 8 {
		w, release := chainReceiver(s)
		if w != nil {
			defer w.Conn.Close()
		}
		defer release()
	}
	senders, close := s.devices(8, frontend.Config{})
	defer close()
	var pumps []*pump
	for i, d := range senders {
		pumps = append(pumps, newPump(d, d.TX[0], nil, frame(broadcast, address(0xc0+i), 60)))
	}
	s.pumping(pumps...)
}

// chainReceiver is a device with a receive ring of one endless chain. It may be refused.
func chainReceiver(s *scene) (w *frontend.Wire, release func()) {
	const size, memory, driver, device = virtio.MaxQueueSize, 4 << 20, 0x100000, 0x180000
	conn, err := connect(s.uid, s.d.socket)
	if err != nil {
		return nil, func() {}
	}
	w = &frontend.Wire{Conn: conn}
	fd, _ := unix.MemfdCreate("chain", unix.MFD_CLOEXEC)
	_ = unix.Ftruncate(fd, memory)
	m, _ := unix.Mmap(fd, 0, memory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	kick, _ := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	release = func() {
		unix.Close(fd)
		unix.Close(kick)
		_ = unix.Munmap(m)
	}
	for i := range size {
		flags := uint16(3) // NEXT, WRITE
		if i == size-1 {
			flags = 2
		}
		binary.LittleEndian.PutUint64(m[16*i:], 0x200000)
		binary.LittleEndian.PutUint16(m[16*i+12:], flags)
		binary.LittleEndian.PutUint16(m[16*i+14:], uint16((i+1)%size))
	}
	binary.LittleEndian.PutUint16(m[driver+2:], 1) // one buffer: descriptor 0
	_ = w.Tell(user.VHOST_USER_SET_FEATURES, frontend.U64(uint64(virtio.Bits(virtio.VIRTIO_F_VERSION_1))))
	_ = w.Tell(user.VHOST_USER_SET_MEM_TABLE, table(0, memory, 0), fd)
	_ = w.Tell(user.VHOST_USER_SET_VRING_NUM, frontend.U32s(0, size))
	_ = w.Tell(user.VHOST_USER_SET_VRING_ADDR, addresses(0, 0, device, driver))
	_ = w.Tell(user.VHOST_USER_SET_VRING_KICK, frontend.U64(0), kick)
	_, _ = w.Ask(user.VHOST_USER_GET_FEATURES, nil)
	return w, release
}

// gsoStorm: broadcasts of 64 KB that are to be cut into pieces of 48 bytes for each receiver, with and without having asked for that (audit 16).
func gsoStorm(s *scene, negotiated bool) {
	c := frontend.Config{RingSize: 16, Buffer: 65536, More: virtio.Bits(virtio.VIRTIO_NET_F_CSUM)}
	if negotiated {
		c.More |= virtio.Bits(virtio.VIRTIO_NET_F_HOST_TSO4)
	}
	d := s.device(c)
	if d == nil {
		return
	}
	defer d.Close()
	const payload = 65400
	ip := make([]byte, 40)
	copy(ip, []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(ip[2:], 40+payload)
	ip[32] = 0x50 // TCP header of 20 bytes
	f := frame(broadcast, address(0xb3), 14)
	f[12], f[13] = 8, 0
	h := make([]byte, d.Header)
	h[0], h[1] = 1, 1 // NEEDS_CSUM, GSO_TCPV4
	binary.LittleEndian.PutUint16(h[2:], 54)
	binary.LittleEndian.PutUint16(h[4:], 48) // gso_size
	binary.LittleEndian.PutUint16(h[6:], 34)
	binary.LittleEndian.PutUint16(h[8:], 16)
	s.pumping(newPump(d, d.TX[0], h, append(append(f, ip...), make([]byte, payload)...)))
}

// macChurn: each frame has another source address (audit 22, 24).
func macChurn(s *scene) {
	d := s.device(frontend.Config{})
	if d == nil {
		return
	}
	defer d.Close()
	p := newPump(d, d.TX[0], nil, frame(address(0xee), address(0xb4), 60))
	n := 0
	p.fill = func(at guestmem.Ptr, _ uint16) {
		n++
		m := churned(n)
		copy(at.Bytes(d.Header + 12)[d.Header+6:], m[:])
	}
	s.pumping(p)
}

// ownPair: 8 queue pairs of one device send frames of 1500 bytes to another device of the attacker's, as fast as the switch takes them (audit 31).
func ownPair(s *scene) {
	from, to := s.device(frontend.Config{QueuePairs: 8}), s.device(frontend.Config{})
	if from == nil || to == nil {
		return
	}
	defer from.Close()
	defer to.Close()
	_ = to.Send(0, frame(address(0xee), address(0xb6), 60))
	var pumps []*pump
	for _, r := range from.TX {
		pumps = append(pumps, newPump(from, r, nil, frame(address(0xb6), address(0xb5), 1500)))
	}
	r := to.RX[0]
	sink := &pump{r: r, size: uint16(r.Size), avail: uint16(r.Size)} // its buffers are offered already, in order
	for slot := range r.Size {
		at := r.Desc() + guestmem.Ptr(16*slot)
		at.StoreU64(r.GPA + uint64(r.Data(slot)-r.Base))
	}
	s.pumping(append(pumps, sink)...)
}
