package attacks

import (
	"encoding/binary"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost/user"
	"vhostkit/switchd/virtio"
	"vhostkit/test/frontend"
)

// attacks lists what goes on beside an innocent pair.
func attacks() []attack {
	return []attack{
		{"enabling and disabling a ring", true, toggle},
		{"call eventfds changed", true, changeCalls},
		{"memory regions come and go", true, changeMemory},
		{"connect and disconnect", false, connectLoop},
		{"devices come and go", false, deviceLoop},
		{"a second connection to a port", false, secondConnections},
		{"blocking eventfds, again and again", false, blockingEventfds},
		{"150 blocking eventfds at once", false, manyBlockingEventfds},
		{"SEND_RARP", true, sendRARP},
		{"long receive chains", true, longChains},
		{"trickling receivers", true, trickle},
		{"broadcast flood", true, broadcastFlood},
		{"segmentation storm, negotiated", true, func(s *scene) { gsoStorm(s, true) }},
		{"segmentation storm", true, func(s *scene) { gsoStorm(s, false) }},
		{"source addresses change", true, macChurn},
		{"8 queue pairs of large frames", true, ownPair},
	}
}

// repeat sends bytes as fast as the switch takes them.
func (s *scene) repeat(d *frontend.Device, b []byte, messages int64) {
	for !s.stop.Load() && d.Raw(b) == nil {
		s.hits.Add(messages)
	}
}

// again runs something until the scene stops; between connections that were refused there is a pause.
func (s *scene) again(once func() bool) {
	for !s.stop.Load() {
		if once() {
			s.hits.Add(1)
		} else {
			time.Sleep(time.Millisecond)
		}
	}
}

// toggle: each SET_VRING_ENABLE is a change of every worker's table (audit 18).
func toggle(s *scene) {
	if d := s.device(frontend.Config{RingSize: 8}); d != nil {
		defer d.Close()
		off, on := frontend.U32s(0, 0), frontend.U32s(0, 1)
		s.repeat(d, append(frontend.Message(user.VHOST_USER_SET_VRING_ENABLE, 0, off), frontend.Message(user.VHOST_USER_SET_VRING_ENABLE, 0, on)...), 2)
	}
}

// changeCalls: a guest that masks and unmasks an MSI-X vector (audit 17).
func changeCalls(s *scene) {
	d := s.device(frontend.Config{RingSize: 8})
	if d == nil {
		return
	}
	defer d.Close()
	s.again(func() bool { return d.Tell(user.VHOST_USER_SET_VRING_CALL, frontend.U64(0), d.RX[0].Call) == nil })
}

// changeMemory maps and unmaps.
func changeMemory(s *scene) {
	d := s.device(frontend.Config{RingSize: 8})
	if d == nil {
		return
	}
	defer d.Close()
	const gpa, size, uva = 0x8000000000, 1 << 20, 0x7d0000000000
	fd, err := unix.MemfdCreate("more", unix.MFD_CLOEXEC)
	if err != nil || unix.Ftruncate(fd, size) != nil {
		return
	}
	defer unix.Close(fd)
	s.again(func() bool {
		return d.Tell(user.VHOST_USER_ADD_MEM_REG, region(gpa, size, uva), fd) == nil && d.Tell(user.VHOST_USER_REM_MEM_REG, region(gpa, size, uva)) == nil
	})
}

func connectLoop(s *scene) {
	s.again(func() bool {
		conn, err := connect(s.uid, s.d.socket)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// deviceLoop: a front-end that starts its rings and goes, as one does that cannot be served.
func deviceLoop(s *scene) {
	s.again(func() bool {
		d, err := newTiny(s.uid, s.d.socket)
		if err != nil {
			return false
		}
		d.close()
		return true
	})
}

// secondConnections: a named port in use is asked for again and again.
func secondConnections(s *scene) {
	const name = "taken"
	if _, err := s.d.client.AddPort(ctx(), name); err != nil {
		return
	}
	defer func() { _ = s.d.client.RemovePort(ctx(), name) }()
	path := filepath.Join(s.d.dir, "p", name+".sock")
	owner, err := newTiny(s.uid, path)
	if err != nil {
		return
	}
	defer owner.close()
	s.again(func() bool {
		if d, err := newTiny(s.uid, path); err == nil {
			d.close()
		}
		return true
	})
}

// full fills an eventfd and makes writing to it block, behind the back of whoever set it to be non-blocking.
func full(fd int) {
	var count [8]byte
	_ = unix.SetNonblock(fd, true)
	_, _ = unix.Read(fd, count[:])
	_, _ = unix.Write(fd, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	_ = unix.SetNonblock(fd, false)
}

// blockingEventfds: 16 rings that start at once, each with a call eventfd that is full and blocks (audit 5).
func blockingEventfds(s *scene) {
	s.again(func() bool { return blockOnce(s) == nil })
}

func blockOnce(s *scene) error {
	conn, err := connect(s.uid, s.d.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	w := &frontend.Wire{Conn: conn}
	const rings, size = 16, 1 << 20
	fd, err := unix.MemfdCreate("block", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_ = unix.Ftruncate(fd, size)
	if err := w.Tell(user.VHOST_USER_SET_FEATURES, frontend.U64(uint64(virtio.Bits(virtio.VIRTIO_F_VERSION_1)))); err != nil {
		return err
	}
	var calls []int
	for i := range uint32(rings) {
		base := uint64(i) << 15
		call, _ := unix.Eventfd(0, unix.EFD_CLOEXEC)
		kick, _ := unix.Eventfd(0, unix.EFD_CLOEXEC)
		calls = append(calls, call)
		defer unix.Close(call)
		defer unix.Close(kick)
		_ = w.Tell(user.VHOST_USER_SET_VRING_NUM, frontend.U32s(i, 256))
		_ = w.Tell(user.VHOST_USER_SET_VRING_ADDR, addresses(i, base, base+0x3000, base+0x2000))
		_ = w.Tell(user.VHOST_USER_SET_VRING_CALL, frontend.U64(uint64(i)), call)
		_ = w.Tell(user.VHOST_USER_SET_VRING_KICK, frontend.U64(uint64(i)), kick)
	}
	if _, err := w.Ask(user.VHOST_USER_GET_FEATURES, nil); err != nil { // all that was taken
		return err
	}
	for _, call := range calls {
		full(call)
	}
	_ = w.Tell(user.VHOST_USER_SET_MEM_TABLE, table(0, size, 0), fd)
	_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // a switch that does not mind goes on
	_, _ = conn.Read(make([]byte, 1))
	return nil
}

// manyBlockingEventfds: devices that run already fill their eventfds and send one frame each; it is to be one round of the worker.
func manyBlockingEventfds(s *scene) {
	list, close := s.devices(150, frontend.Config{RingSize: 8})
	defer close()
	send := func() {
		for i, d := range list {
			_ = d.Send(0, frame(address(0xee), address(0x5000+i), 60))
		}
	}
	send()
	time.Sleep(50 * time.Millisecond)
	for _, d := range list {
		full(d.TX[0].Call)
	}
	send()
	s.hits.Add(int64(len(list)))
	for !s.stop.Load() {
		time.Sleep(time.Millisecond)
	}
}

// sendRARP: each is a broadcast that the switch makes (audit 7).
func sendRARP(s *scene) {
	d := s.device(frontend.Config{RingSize: 8})
	if d == nil {
		return
	}
	defer d.Close()
	var many []byte
	for range 200 {
		many = append(many, frontend.Message(user.VHOST_USER_SEND_RARP, 0, binary.LittleEndian.AppendUint64(nil, 0x660000000002))...)
	}
	s.repeat(d, many, 200)
}

// TestCallChange: a guest masks and unmasks its receive queue's vector, and its QEMU passes another call eventfd each time (audit 17). No frame to it is
// lost meanwhile.
func TestCallChange(t *testing.T) {
	d := start(t)
	p := newPair(t, d, innocent)
	masked, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(masked)
	stop, changed := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { changed <- n }()
		for fds := []int{masked, p.to.RX[0].Call}; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := p.to.Tell(user.VHOST_USER_SET_VRING_CALL, frontend.U64(0), fds[n%2]); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	y := p.traffic(1500*time.Millisecond, 5000, true)
	close(stop)
	t.Logf("%d changes: %v", <-changed, y)
	if y.kept != y.offered || y.disorder != 0 {
		t.Errorf("while call eventfds are changed: %v, %d in disorder; %s", y, y.disorder, p.drops())
	}
	d.goesOn(t)
}
