package tap

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/uplink"
)

// open makes an interface for the test; it needs root, and what is missing is an error.
func open(t testing.TB, queues int) *Tap {
	t.Helper()
	u, err := Open(Config{Name: fmt.Sprintf("vhkt%d", os.Getpid()%100000), Queues: queues, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

// packetSocket sees and sends what passes an interface.
func packetSocket(t testing.TB, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network order
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s) })
	if err := unix.Bind(s, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		t.Fatal(err)
	}
	return s
}

func frameFor(b *guestmem.Buffer, payload int) uplink.TxFrame {
	f := uplink.TxFrame{HeaderLen: ether.HeaderLen, Len: ether.HeaderLen + ether.TagLen + payload}
	copy(f.Header[:], []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5})
	ether.PutTag(f.Header[:], 1005)
	f.HeaderLen += ether.TagLen
	half := payload / 2
	f.Segs = []guestmem.Segment{{Addr: b.Addr(100), Len: uint32(half)}, {Addr: b.Addr(8192), Len: uint32(payload - half)}}
	return f
}

func TestSendAndReceive(t *testing.T) {
	u := open(t, 2)
	if u.Queues() != 2 || u.Driver() != "tap" {
		t.Fatalf("%d queues of %s", u.Queues(), u.Driver())
	}
	s := packetSocket(t, u.Name())
	buffer, err := guestmem.NewBuffer(16384)
	if err != nil {
		t.Fatal(err)
	}
	defer buffer.Close()
	for i := range buffer.Bytes() {
		buffer.Bytes()[i] = byte(i)
	}
	f := frameFor(buffer, 1000)
	if n, err := u.Queue(1).Send([]uplink.TxFrame{f}); n != 1 || err != nil {
		t.Fatalf("sent %d, %v", n, err)
	}
	want := append([]byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x81, 0, 0x03, 0xed, 0x88, 0xb5}, buffer.Bytes()[100:600]...)
	want = append(want, buffer.Bytes()[8192:8692]...)
	got := make([]byte, 2000)
	for {
		n, _, err := unix.Recvfrom(s, got, 0)
		if err != nil {
			t.Fatalf("the frame is not on the interface: %v", err)
		}
		// The kernel takes the outer tag off before packet sockets see the frame.
		if untagged := append(bytes.Clone(want[:12]), want[16:]...); bytes.Equal(got[:n], want) || bytes.Equal(got[:n], untagged) {
			break
		}
	}
	if _, err := unix.Write(s, want); err != nil {
		t.Fatal(err)
	}
	received := make([]uplink.RxFrame, 8)
	for end := time.Now().Add(2 * time.Second); ; {
		if time.Now().After(end) {
			t.Fatal("the frame did not arrive")
		}
		for q := range u.Queues() {
			n, err := u.Queue(q).Receive(received)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range received[:n] {
				if bytes.Equal(r.Addr.Bytes(int(r.Len)), want) {
					if !r.Tagged || r.VLAN != 1005 {
						t.Errorf("tag %v, VLAN %d", r.Tagged, r.VLAN)
					}
					return
				}
			}
		}
	}
}

// TestSendFromGoneMemory: the sender's memory cannot be read; the error says so and the frames before went.
func TestSendFromGoneMemory(t *testing.T) {
	u := open(t, 1)
	buffer, err := guestmem.NewBuffer(16384)
	if err != nil {
		t.Fatal(err)
	}
	good := frameFor(buffer, 100)
	gone := good
	gone.Segs = []guestmem.Segment{{Addr: 4096, Len: 100}} // the kernel maps nothing there
	if n, err := u.Queue(0).Send([]uplink.TxFrame{good, gone, good}); n != 1 || !errors.Is(err, unix.EFAULT) {
		t.Errorf("sent %d, %v; want 1 and EFAULT", n, err)
	}
	buffer.Close()
}

func TestNameInUse(t *testing.T) {
	if _, err := Open(Config{Name: "lo", Queues: 1}); err == nil {
		t.Error("the loopback interface was taken for a TAP")
	}
}

func TestSendAllocatesNothing(t *testing.T) {
	u := open(t, 1)
	buffer, err := guestmem.NewBuffer(16384)
	if err != nil {
		t.Fatal(err)
	}
	defer buffer.Close()
	frames := []uplink.TxFrame{frameFor(buffer, 1000), frameFor(buffer, 60)}
	received := make([]uplink.RxFrame, 8)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = u.queues[0].Send(frames)
		_, _ = u.queues[0].Receive(received)
	}); n != 0 {
		t.Errorf("%v allocations per burst", n)
	}
}
