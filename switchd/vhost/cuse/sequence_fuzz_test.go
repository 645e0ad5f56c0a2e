package cuse

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// left is what this process has open and mapped of guests.
func left(t testing.TB) (descriptors, mappings int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return len(list), strings.Count(string(text), "cuse-test")
}

// program is a QEMU that does what the bytes of an input say, mostly in a way that is right.
type program struct {
	*kernel
	input   []byte
	handles []uint64
	guests  []*guest
	events  []int
}

func (p *program) next() int {
	if len(p.input) == 0 {
		return 0
	}
	b := p.input[0]
	p.input = p.input[1:]
	return int(b)
}

func (p *program) guest() *guest { return p.guests[p.next()%len(p.guests)] }

// descriptor is one of this process's: an eventfd, guest memory, none, or a number that nothing has.
func (p *program) descriptor() uint32 {
	switch b := p.next(); b % 8 {
	case 0:
		return noFD
	case 1:
		return uint32(p.guest().fd)
	case 2:
		return uint32(b) << 8
	default:
		return uint32(p.events[b%len(p.events)])
	}
}

func (p *program) step() {
	h := p.handles[p.next()%len(p.handles)]
	ring := uint32(p.next() % 3)
	switch op := p.next(); op % 16 {
	case 0:
		p.ioctl(h, VHOST_SET_OWNER, nil)
	case 1:
		p.ioctl(h, VHOST_RESET_OWNER, nil)
	case 2:
		p.ioctl(h, VHOST_SET_FEATURES, features())
	case 3:
		regions := []guestRegion{p.guest().region()}
		if p.next()%4 == 0 {
			regions = append(regions, p.guest().region())
			regions[1].GuestPhysAddr += uint64(p.next()) << 12
		}
		regions[0].Size -= uint64(p.next()%4) << 12
		p.ioctl(h, VHOST_SET_MEM_TABLE, table(regions...))
	case 4:
		p.ioctl(h, VHOST_SET_VRING_NUM, words(ring, []uint32{16, 8, 3, 1 << 20}[p.next()%4]))
	case 5:
		p.ioctl(h, VHOST_SET_VRING_BASE, words(ring, uint32(p.next())))
	case 6:
		p.ioctl(h, VHOST_SET_VRING_ADDR, p.guest().ringAddr(ring, p.next()%9))
	case 7:
		p.ioctl(h, VHOST_SET_VRING_KICK, words(ring, p.descriptor()))
	case 8:
		p.ioctl(h, VHOST_SET_VRING_CALL, words(ring, p.descriptor()))
	case 9:
		p.ioctl(h, VHOST_SET_VRING_ERR, words(ring, p.descriptor()))
	case 10:
		p.ioctl(h, VHOST_NET_SET_BACKEND, words(ring, p.descriptor()))
	case 11:
		p.ioctl(h, VHOST_GET_VRING_BASE, words(ring, 0))
	case 12: // the file is cut, or grows again
		_ = unix.Ftruncate(p.guest().fd, int64(p.next()%9)*pageSize)
	case 13:
		if len(p.handles) < 4 {
			p.handles = append(p.handles, p.open())
		}
	case 14:
		if len(p.handles) > 1 {
			p.release(p.handles[0])
			p.handles = p.handles[1:]
		}
	case 15: // the data plane stops the device
		if port := p.sw.port(p.next() % 4); port != nil {
			port.connection.Fail(os.ErrInvalid)
		}
	}
}

// running is the beginning after which both rings run.
var running = []byte{
	0, 0, 0, 0, 0, 2, 0, 0, 3, 0, 1, 0,
	0, 0, 4, 0, 0, 1, 4, 0, 0, 0, 6, 0, 0, 0, 1, 6, 0, 1,
	0, 0, 7, 3, 0, 1, 7, 4, 0, 0, 8, 5, 0, 1, 8, 6,
	0, 0, 10, 1, 0, 0, 1, 10, 1, 0,
}

// run carries an input out.
func run(t testing.TB, input []byte) *program {
	p := &program{kernel: boot(t), input: input}
	p.handles = []uint64{p.open()}
	for i := range 2 {
		p.guests = append(p.guests, newGuest(t, uint64(i)<<20, 8, 0))
	}
	for range 4 {
		p.events = append(p.events, eventFD(t))
	}
	for steps := 0; len(p.input) > 0 && steps < 100; steps++ {
		p.step()
	}
	return p
}

// FuzzSequence runs sequences of ioctls with memory and descriptors, while files are cut and devices fail: nothing panics or hangs, each ioctl
// gets one answer, a new device works, and nothing stays behind.
func FuzzSequence(f *testing.F) {
	f.Add([]byte{})
	f.Add(running)
	f.Add(append(bytes.Clone(running), 0, 0, 12, 0, 0, 0, 0, 8, 5, 0, 0, 11, 0, 0, 3, 0, 1, 0))
	f.Add(append(bytes.Clone(running), 0, 0, 13, 0, 0, 15, 0, 1, 0, 0, 0, 0, 14, 0, 0, 1))
	f.Fuzz(func(t *testing.T, input []byte) {
		descriptors, _ := left(t)
		t.Cleanup(func() { // after the server has ended
			if d, m := left(t); d != descriptors || m != 0 {
				t.Errorf("%d descriptors before, %d after; %d mappings are left", descriptors, d, m)
			}
		})
		p := run(t, input)
		if errno, _ := p.ioctl(p.open(), VHOST_GET_FEATURES, nil); errno != 0 {
			t.Errorf("a new device: %v", errno)
		}
	})
}

// TestSequenceGoesDeep: the beginning that the fuzzer starts from makes rings run.
func TestSequenceGoesDeep(t *testing.T) {
	p := run(t, bytes.Clone(running))
	if rings, _ := p.sw.port(0).state(); len(rings) != queues {
		t.Errorf("rings %v run; log:\n%s", rings, p.log)
	}
}
