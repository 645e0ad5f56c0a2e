package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
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

// counted gives the counters that are not 0.
func counted(u *Tap) map[string]uint64 {
	c := map[string]uint64{}
	for _, k := range u.Counters() {
		if k.Value > 0 {
			c[k.Name] = k.Value
		}
	}
	return c
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
	if err := unix.SetsockoptInt(s, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		t.Fatal(err)
	}
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

// filled makes memory outside the Go heap with a pattern in it.
func filled(t testing.TB) *guestmem.Buffer {
	t.Helper()
	buffer, err := guestmem.NewBuffer(16384)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(buffer.Close)
	for i := range buffer.Bytes() {
		buffer.Bytes()[i] = byte(i)
	}
	return buffer
}

// seen waits for a frame of our own EtherType, possibly behind a tag, on a packet socket, and gives it as the kernel understood it: the tag
// apart from the frame.
func seen(t testing.TB, s int) (frame []byte, vlan uint16, tagged bool) {
	t.Helper()
	b, oob := make([]byte, 4096), make([]byte, 256)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		n, oobn, _, _, err := unix.Recvmsg(s, b, oob, 0)
		if err != nil {
			t.Fatalf("nothing on the interface: %v", err)
		}
		if n < ether.HeaderLen || b[12] != 0x88 || b[13] != 0xb5 {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 || len(messages[0].Data) < 20 {
			t.Fatalf("no auxiliary data with the frame: %v, %v", messages, err)
		}
		aux := messages[0].Data // struct tpacket_auxdata: status at 0, vlan_tci at 16
		return b[:n], binary.NativeEndian.Uint16(aux[16:]), binary.NativeEndian.Uint32(aux)&unix.TP_STATUS_VLAN_VALID != 0
	}
	t.Fatal("the frame is not on the interface")
	return nil, 0, false
}

func TestSendAndReceive(t *testing.T) {
	u := open(t, 2)
	if u.Queues() != 2 || u.Driver() != "tap" || uplink.Pools(u) != 0 {
		t.Fatalf("%d queues of %s, %d pools", u.Queues(), u.Driver(), uplink.Pools(u))
	}
	s := packetSocket(t, u.Name())
	buffer := filled(t)
	f := frameFor(buffer, 1000)
	if n, err := u.Queue(1).Send([]uplink.TxFrame{f}, nil); n != 1 || err != nil {
		t.Fatalf("sent %d, %v", n, err)
	}
	want := append([]byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5}, buffer.Bytes()[100:600]...)
	want = append(want, buffer.Bytes()[8192:8692]...)
	if got, vlan, tagged := seen(t, s); !bytes.Equal(got, want) || !tagged || vlan != 1005 {
		t.Fatalf("the kernel sees %d bytes, VLAN %d, tagged %v: %x", len(got), vlan, tagged, got)
	}
	want = append(append(bytes.Clone(want[:12]), 0x81, 0, 0x03, 0xed), want[12:]...)
	if _, err := unix.Write(s, want); err != nil {
		t.Fatal(err)
	}
	await(t, u, func(_ int, r *uplink.RxFrame) bool {
		if !bytes.Equal(r.Addr.Bytes(int(r.Len)), want) {
			return false
		}
		if !r.Tagged || r.VLAN != 1005 {
			t.Errorf("tag %v, VLAN %d", r.Tagged, r.VLAN)
		}
		return true
	})
	if stats := counted(u); !maps.Equal(stats, map[string]uint64{}) {
		t.Errorf("losses: %+v", stats)
	}
}

// await receives on all queues until done says so.
func await(t testing.TB, u *Tap, done func(queue int, r *uplink.RxFrame) bool) {
	t.Helper()
	received := make([]uplink.RxFrame, 8)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		for q := range u.Queues() {
			n, err := u.Queue(q).Receive(received)
			if err != nil {
				t.Fatal(err)
			}
			for i := range received[:n] {
				if done(q, &received[i]) {
					return
				}
			}
		}
	}
	t.Fatal("the frames did not arrive")
}

// TestSendFromGoneMemory: the sender's memory cannot be read; the error says so and the frames before went.
func TestSendFromGoneMemory(t *testing.T) {
	u := open(t, 1)
	buffer := filled(t)
	good := frameFor(buffer, 100)
	gone := good
	gone.Segs = []guestmem.Segment{{Addr: 4096, Len: 100}} // the kernel maps nothing there
	if n, err := u.Queue(0).Send([]uplink.TxFrame{good, gone, good}, nil); n != 1 || !errors.Is(err, unix.EFAULT) {
		t.Errorf("sent %d, %v; want 1 and EFAULT", n, err)
	}
}

func TestSendAllocatesNothing(t *testing.T) {
	u := open(t, 1)
	buffer := filled(t)
	frames := []uplink.TxFrame{frameFor(buffer, 1000), frameFor(buffer, 60)}
	received := make([]uplink.RxFrame, 8)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = u.queues[0].Send(frames, nil)
		_, _ = u.queues[0].Receive(received)
	}); n != 0 {
		t.Errorf("%v allocations per burst", n)
	}
}

// BenchmarkSend is the cost of a frame up to the kernel's end of it.
func BenchmarkSend(b *testing.B) {
	u := open(b, 1)
	frames := make([]uplink.TxFrame, 32)
	buffer := filled(b)
	for i := range frames {
		frames[i] = frameFor(buffer, 1000)
	}
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(frames) {
		if sent, err := u.queues[0].Send(frames, nil); sent != len(frames) || err != nil {
			b.Fatal(sent, err)
		}
	}
}
