package forward

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
)

// poolsUplink is an uplink with pools for some ports, which notes what it is given to send.
type poolsUplink struct {
	uplink.Uplink // what is not needed here
	pools         int

	mu   sync.Mutex
	sent []taggedFrame
}

type taggedFrame struct {
	to, from byte // last byte of the address
	vlan     int
}

func (u *poolsUplink) Pools() int                                            { return u.pools }
func (u *poolsUplink) Queues() int                                           { return 1 }
func (u *poolsUplink) Queue(int) uplink.Queue                                { return u }
func (u *poolsUplink) FD() int                                               { return -1 }
func (u *poolsUplink) Receive([]uplink.RxFrame) (int, error)                 { return 0, nil }
func (u *poolsUplink) RemoveFilter(uplink.Pool, ether.MAC, ether.VLAN) error { return nil }

var _ uplink.Filterer = (*poolsUplink)(nil)

func (u *poolsUplink) AddFilter(port uplink.Pool, _ ether.MAC, _ ether.VLAN) error {
	if int(port) >= u.pools {
		return uplink.ErrNoPool
	}
	return nil
}

func (u *poolsUplink) Send(frames []uplink.TxFrame, _ *uplink.InFlight) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range frames {
		h := &frames[i].Header
		u.sent = append(u.sent, taggedFrame{to: h[5], from: h[11], vlan: int(binary.BigEndian.Uint16(h[14:]))})
	}
	return len(frames), nil
}

// take empties the list of what was sent, and tells what it was.
func (u *poolsUplink) take(n int) (list []taggedFrame) {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Microsecond) {
		u.mu.Lock()
		if len(u.sent) >= n {
			list, u.sent = u.sent, nil
		}
		u.mu.Unlock()
		if list != nil {
			break
		}
	}
	return list
}

// TestHardwareSwitching: with --vm2vm 2 a frame between guests whose addresses the NIC knows goes to the NIC with the destination's VLAN; what it
// does not know, and what is for everybody, is delivered here.
func TestHardwareSwitching(t *testing.T) {
	u := &poolsUplink{pools: 2}
	s := startSwitch(t, Config{VM2VM: VM2VMHardware, Uplink: u})
	guests := []*guest{newGuest(t, s, 256), newGuest(t, s, 256), newGuest(t, s, 256)} // the last has no pool
	for i, g := range guests {
		g.send(testFrame(0x99, byte(i+1), 100, 0)) // to nobody here: outside, by the sender's own VLAN
		if got, want := u.take(1), []taggedFrame{{0x99, byte(i + 1), 1000 + i}}; !slices.Equal(got, want) {
			t.Fatalf("guest %d to the outside: %+v, want %+v", i, got, want)
		}
	}
	until(t, "the NIC knows both addresses", func() bool { return len(*s.hardware.Load()) == 2 })

	guests[0].send(testFrame(2, 1, 100, 0))
	if got, want := u.take(1), []taggedFrame{{2, 1, 1001}}; !slices.Equal(got, want) {
		t.Errorf("between guests with pools: %+v, want %+v", got, want)
	}
	guests[0].send(testFrame(3, 1, 100, 7))
	if got := guests[2].receive(1, 5*time.Second); len(got) != 1 {
		t.Error("nothing came to the guest without a pool")
	}
	guests[2].send(testFrame(1, 3, 100, 7))
	if got := guests[0].receive(1, 5*time.Second); len(got) != 1 {
		t.Error("nothing came from the guest without a pool")
	}
	broadcast := testFrame(0, 1, 100, 0)
	copy(broadcast, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	guests[0].send(broadcast)
	if got, want := u.take(1), []taggedFrame{{0xff, 1, 1000}}; !slices.Equal(got, want) {
		t.Errorf("for everybody, on the wire: %+v, want %+v", got, want)
	}
	for i, g := range guests[1:] {
		if got := g.receive(1, 5*time.Second); len(got) != 1 {
			t.Errorf("guest %d got %d frames for everybody, want 1", i+1, len(got))
		}
	}
}

// TestLoopVLANOfMovedAddress: the NIC is trusted with a frame only if it has both addresses where the switch has them.
func TestLoopVLANOfMovedAddress(t *testing.T) {
	s := New(Config{VM2VM: VM2VMHardware, VLANBase: 1000})
	a, b := address(0, 1), address(1, 1)
	for _, step := range []struct {
		what     string
		mac      ether.MAC
		pool     PortID // where the NIC has mac
		from, to PortID // ports of a and b, by the switch
		want     ether.VLAN
	}{
		{"only the sender is known", a, 0, 0, 1, 0},
		{"both are known", b, 1, 0, 1, 1001},
		{"the receiver has moved, the NIC does not know yet", b, 1, 0, 2, 0},
		{"the NIC knows", b, 2, 0, 2, 1002},
		{"the sender has moved", b, 2, 3, 2, 0},
		{"the receiver has left", b, -1, 0, 2, 0},
	} {
		s.setHardware(step.mac, step.pool)
		if got := s.loopVLAN(a, step.from, b, step.to); got != step.want {
			t.Errorf("%s: tag %d, want %d", step.what, got, step.want)
		}
	}
}
