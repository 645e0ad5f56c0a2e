package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost/user"
	"vhostkit/test/frontend"
)

// bystanders exchange numbered frames over the switch until stopped, and fail the test if one is lost, changed or out of order.
type bystanders struct {
	from, to *frontend.Device
	stop     chan struct{}
	done     sync.WaitGroup
	frames   atomic.Uint32
}

func startBystanders(t *testing.T, sw *switchd) *bystanders {
	t.Helper()
	b := &bystanders{from: dial(t, sw, frontend.Config{}), to: dial(t, sw, frontend.Config{Packed: true}), stop: make(chan struct{})}
	teach(t, sw, b.to, addr(0x2001))
	b.done.Add(1)
	go func() {
		defer b.done.Done()
		for n := uint32(0); ; n++ {
			select {
			case <-b.stop:
				return
			default:
			}
			if err := b.from.Send(0, numbered(addr(0x2001), addr(0x2000), 100, n)); err != nil {
				t.Errorf("bystander: sending frame %d: %v", n, err)
				return
			}
			for {
				f, err := b.to.Receive(0, 5*time.Second)
				if err != nil {
					t.Errorf("bystander: frame %d was lost: %v", n, err)
					return
				}
				if f[5] == 0xff || f[0] == 0xff { // a broadcast of a test
					continue
				}
				if got, err := check(f); err != nil || got != n {
					t.Errorf("bystander: received frame %d, %v; want %d", got, err, n)
					return
				}
				break
			}
			b.frames.Store(n + 1)
		}
	}()
	return b
}

func (b *bystanders) finish(t *testing.T) {
	t.Helper()
	before := b.frames.Load()
	eventually(t, 10*time.Second, "the bystanders exchange another 100 frames", func() bool { return b.frames.Load() >= before+100 })
	close(b.stop)
	b.done.Wait()
}

// descriptor writes descriptor i of a split ring.
func descriptor(r *frontend.Ring, i int, addr uint64, size uint32, flags, next uint16) {
	d := r.Desc() + guestmem.Ptr(16*i)
	d.StoreU64(addr)
	(d + 8).StoreU32(size)
	(d + 12).StoreU16(flags)
	(d + 14).StoreU16(next)
}

// offer makes the avail ring of a split ring name one descriptor, and sets the index.
func offer(r *frontend.Ring, head, index uint16) {
	(r.Driver() + 4).StoreU16(head)
	r.Driver().StoreReleaseU32(uint32(index) << 16)
	r.KickNow()
}

// packedDescriptor makes slot i of a packed ring available on the first lap.
func packedDescriptor(r *frontend.Ring, i int, addr uint64, size uint32, id, flags uint16) {
	d := r.Desc() + guestmem.Ptr(16*i)
	d.StoreU64(addr)
	(d + 8).StoreReleaseU64(uint64(size) | uint64(id)<<32 | uint64(flags|1<<7)<<48)
}

// TestHostileRings: whatever a guest writes into its rings stops its own device with a clear line, and the bystanders lose nothing.
func TestHostileRings(t *testing.T) {
	const data = 0x80000
	split, packed := frontend.Config{}, frontend.Config{Packed: true}
	cases := []struct {
		name   string
		config frontend.Config
		attack func(d *frontend.Device, tx *frontend.Ring)
		log    string
	}{
		{"head outside the ring", split, func(_ *frontend.Device, r *frontend.Ring) { offer(r, 300, 1) }, "names descriptor 300"},
		{"avail index jumps", split, func(_ *frontend.Device, r *frontend.Ring) { offer(r, 0, 1000) }, "ahead of"},
		{"chain is a loop", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, r.GPA+data, 100, 1, 1)
			descriptor(r, 1, r.GPA+data, 100, 1, 0)
			offer(r, 0, 1)
		}, "loop"},
		{"next outside the ring", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, r.GPA+data, 100, 1, 9999)
			offer(r, 0, 1)
		}, "goes on at descriptor 9999"},
		{"address outside the memory", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, 0xdead0000, 100, 0, 0)
			offer(r, 0, 1)
		}, "not in guest memory"},
		{"address wraps around", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, ^uint64(0)-10, 100, 0, 0)
			offer(r, 0, 1)
		}, "not in guest memory"},
		{"length of 4 GiB - 1", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, r.GPA+data, 0xffffffff, 0, 0)
			offer(r, 0, 1)
		}, "not in guest memory"},
		{"buffer of the switch's own to write", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, r.GPA+data, 100, 2, 0)
			offer(r, 0, 1)
		}, "marked for writing"},
		{"indirect inside indirect", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, r.GPA, 32, 4, 0) // the table is the ring itself, whose first entry is indirect
			offer(r, 0, 1)
		}, "indirect"},
		{"indirect table of 4 GiB", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, r.GPA, 0xfffffff0, 4, 0)
			offer(r, 0, 1)
		}, "indirect table"},
		{"indirect table of 0 bytes", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, r.GPA, 0, 4, 0)
			offer(r, 0, 1)
		}, "indirect table"},
		{"indirect table outside the memory", split, func(_ *frontend.Device, r *frontend.Ring) {
			descriptor(r, 0, 0x10, 32, 4, 0)
			offer(r, 0, 1)
		}, "indirect table"},
		{"receive buffer that may not be written", split, func(d *frontend.Device, _ *frontend.Ring) {
			for i := range 256 {
				descriptor(d.RX[0], i, d.RX[0].GPA+data, 2048, 0, 0)
			}
			d.RX[0].KickNow()
		}, "may not write"},
		{"packed: id outside the ring", packed, func(_ *frontend.Device, r *frontend.Ring) {
			packedDescriptor(r, 0, r.GPA+data, 100, 5000, 0)
			r.KickNow()
		}, "buffer id 5000"},
		{"packed: address outside the memory", packed, func(_ *frontend.Device, r *frontend.Ring) {
			packedDescriptor(r, 0, 0xbeef0000, 100, 0, 0) // the line about the other address is not written again so soon
			r.KickNow()
		}, "not in guest memory"},
		{"packed: chain without an end", packed, func(_ *frontend.Device, r *frontend.Ring) {
			for i := 255; i >= 0; i-- {
				packedDescriptor(r, i, r.GPA+data, 10, 0, 1)
			}
			r.KickNow()
		}, "a chain of more than 256"},
		{"packed: indirect inside indirect", packed, func(_ *frontend.Device, r *frontend.Ring) {
			packedDescriptor(r, 0, r.GPA, 32, 0, 4)
			r.KickNow()
		}, "indirect"},
	}
	sw := startSwitchd(t)
	b := startBystanders(t, sw)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := dial(t, sw, c.config)
			sw.waitPorts(t, 3)
			teach(t, sw, dial(t, sw, frontend.Config{}), addr(0x3000+i)) // somebody else comes and goes meanwhile
			seen := len(sw.Log())
			c.attack(d, d.TX[0])
			if c.config == split && c.name == "receive buffer that may not be written" {
				other := dial(t, sw, frontend.Config{})
				if err := other.Send(0, numbered(broadcast, addr(0x4000), 60, 0)); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, 5*time.Second, "a line about the attack: "+c.log, func() bool {
				return strings.Contains(sw.Log()[seen:], c.log) && strings.Contains(sw.Log()[seen:], "device stopped")
			})
			if n := strings.Count(sw.Log()[seen:], `msg="device stopped`); n != 1 {
				t.Errorf("%d lines about one attack", n)
			}
			d.Close()
		})
		eventually(t, 5*time.Second, "only the bystanders are left", func() bool { return len(sw.ports(t)) == 2 })
	}
	b.finish(t)
}

// TestHostileFrames are dropped and counted; the device goes on.
func TestHostileFrames(t *testing.T) {
	sw := startSwitchd(t)
	b := startBystanders(t, sw)
	for _, c := range []struct {
		reason string
		size   int // of the buffer, header included
	}{
		{"bad_header", 3}, {"bad_header", 11}, {"runt", 12}, {"runt", 25}, {"oversized", 2000},
	} {
		t.Run(fmt.Sprintf("%s %d", c.reason, c.size), func(t *testing.T) {
			d := dial(t, sw, frontend.Config{})
			defer d.Close()
			if err := d.SendSized(0, numbered(addr(9), addr(8), 60, 0), c.size); err != nil {
				t.Fatal(err)
			}
			wantDrops(t, sw, 2, c.reason, 1)
			teach(t, sw, d, addr(8))
		})
		sw.waitPorts(t, 2)
	}
	b.finish(t)
}

// TestTruncatedMemory (docs/dpdk-compat.md, 5): a guest that truncates its memory file loses its port; nobody else
// loses a frame.
func TestTruncatedMemory(t *testing.T) {
	for _, packed := range []bool{false, true} {
		for _, sending := range []bool{true, false} {
			t.Run(fmt.Sprintf("packed=%v sending=%v", packed, sending), func(t *testing.T) {
				sw := startSwitchd(t)
				b := startBystanders(t, sw)
				d := dial(t, sw, frontend.Config{Packed: packed})
				teach(t, sw, d, addr(0x55))
				if err := unix.Ftruncate(d.MemoryFD, 0); err != nil {
					t.Fatal(err)
				}
				if sending {
					d.TX[0].KickNow()
				} else {
					other := dial(t, sw, frontend.Config{})
					for n := range uint32(10) {
						if err := other.Send(0, numbered(addr(0x55), addr(0x56), 100, n)); err != nil {
							t.Fatal(err)
						}
					}
				}
				sw.waitLog(t, "truncated or unmapped the file")
				sw.waitLog(t, "device stopped")
				b.finish(t)
			})
		}
	}
}

// TestHostileMessages: malformed messages end their own connection, leak nothing, and disturb nobody.
func TestHostileMessages(t *testing.T) {
	sw := startSwitchd(t)
	b := startBystanders(t, sw)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	regions := func(n uint32) []byte { return append(frontend.U32s(n, 0), make([]byte, 32*int(min(n, 8)))...) }
	cases := []struct {
		name  string
		bytes []byte
		fds   []int
	}{
		{"cut header", []byte{1, 0, 0}, nil},
		{"cut payload", frontend.Message(user.VHOST_USER_SET_FEATURES, 0, make([]byte, 8))[:15], nil},
		{"wrong version", []byte{1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}, nil},
		{"payload of 4 GiB", []byte{2, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, nil},
		{"features not offered", frontend.Message(user.VHOST_USER_SET_FEATURES, 0, frontend.U64(1<<63)), nil},
		{"features of 4 bytes", frontend.Message(user.VHOST_USER_SET_FEATURES, 0, frontend.U32s(1)), nil},
		{"memory table without descriptors", frontend.Message(user.VHOST_USER_SET_MEM_TABLE, 0, regions(1)), nil},
		{"memory table of 1000 regions", frontend.Message(user.VHOST_USER_SET_MEM_TABLE, 0, regions(1000)), []int{fd}},
		{"memory table with too many descriptors", frontend.Message(user.VHOST_USER_SET_MEM_TABLE, 0, regions(1)), []int{fd, fd}},
		{"memory that is /dev/null", frontend.Message(user.VHOST_USER_SET_MEM_TABLE, 0, frontend.MemTable(4096)), []int{fd}},
		{"nine descriptors", frontend.Message(user.VHOST_USER_SET_MEM_TABLE, 0, regions(8)), []int{fd, fd, fd, fd, fd, fd, fd, fd, fd}},
		{"kick that is /dev/null", frontend.Message(user.VHOST_USER_SET_VRING_KICK, 0, frontend.U64(0)), []int{fd}},
		{"kick without a descriptor", frontend.Message(user.VHOST_USER_SET_VRING_KICK, 0, frontend.U64(0)), nil},
		{"vring 250", frontend.Message(user.VHOST_USER_SET_VRING_NUM, 0, frontend.U32s(250, 256)), nil},
		{"ring of 0", frontend.Message(user.VHOST_USER_SET_VRING_NUM, 0, frontend.U32s(0, 0)), nil},
		{"ring of 4 billion", frontend.Message(user.VHOST_USER_SET_VRING_NUM, 0, frontend.U32s(0, 0xffffffff)), nil},
		{"enable 7", frontend.Message(user.VHOST_USER_SET_VRING_ENABLE, 0, frontend.U32s(0, 7)), nil},
	}
	before := usage(t, sw)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: sw.Socket, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			w := frontend.Wire{Conn: conn}
			if _, err := w.Ask(user.VHOST_USER_GET_FEATURES, nil); err != nil { // a port comes with the first message
				t.Fatal(err)
			}
			sw.waitPorts(t, 3)
			if err := w.Raw(c.bytes, c.fds...); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(c.name, "cut") {
				conn.Close()
			}
			sw.waitPorts(t, 2)
		})
	}
	// Requests that nobody knows are answered as the protocol says, and the device goes on.
	d := dial(t, sw, frontend.Config{})
	if err := d.Tell(99, nil); err == nil {
		t.Error("an unknown request was acknowledged as done")
	}
	if _, err := d.Ask(user.VHOST_USER_GET_QUEUE_NUM, nil); err != nil {
		t.Errorf("after an unknown request: %v", err)
	}
	d.Close()
	sw.waitPorts(t, 2)
	// Connections of front-ends that broke the rules are kept for some seconds.
	eventually(t, 10*time.Second, "all descriptors are closed", func() bool { return usage(t, sw).fds <= before.fds })
	b.finish(t)
}

// TestBlockingEventfd: a front-end makes its call eventfd block, after the switch has it. That must not stop the worker.
func TestBlockingEventfd(t *testing.T) {
	sw := startSwitchd(t)
	b := startBystanders(t, sw)
	d := dial(t, sw, frontend.Config{})
	teach(t, sw, d, addr(0x66))
	call := d.RX[0].Call
	full := make([]byte, 8)
	binary.NativeEndian.PutUint64(full, ^uint64(0)-1)
	var count [8]byte
	_, _ = unix.Read(call, count[:])
	if _, err := unix.Write(call, full); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(call), unix.F_SETFL, 0); err != nil {
		t.Fatal(err)
	}
	other := dial(t, sw, frontend.Config{})
	if err := other.Send(0, numbered(addr(0x66), addr(0x67), 100, 1)); err != nil {
		t.Fatal(err)
	}
	b.finish(t)
	if log := sw.Log(); strings.Contains(log, "device stopped") { // it is not called, and that is its own affair
		t.Errorf("a device was stopped:\n%s", log)
	}
	sw.waitPorts(t, 4)
}
