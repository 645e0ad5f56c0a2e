package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/test/frontend"
)

// outside is a packet socket on the uplink's interface.
func outside(t *testing.T, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s) })
	if err := unix.Bind(s, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: i.Index}); err != nil { // ETH_P_ALL in network order
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200000}); err != nil {
		t.Fatal(err)
	}
	// The kernel takes the outermost tag off what packet sockets see; the auxiliary data have it.
	if err := unix.SetsockoptInt(s, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		t.Fatal(err)
	}
	return s
}

func tagged(f []byte, vlan int) []byte {
	out := append(bytes.Clone(f[:12]), 0x81, 0, byte(vlan>>8), byte(vlan))
	return append(out, f[12:]...)
}

// vlanOf waits for a frame on the uplink and gives the VLAN it was tagged with.
func vlanOf(t *testing.T, s int, want []byte) int {
	t.Helper()
	b, oob := make([]byte, 2048), make([]byte, 256)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		n, oobn, _, _, err := unix.Recvmsg(s, b, oob, 0)
		if err != nil || !bytes.Equal(b[:n], want) {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if m.Header.Type == unix.PACKET_AUXDATA { // struct tpacket_auxdata: tp_vlan_tci is its 16 bits at 16
				return int(m.Data[16]) | int(m.Data[17])<<8
			}
		}
	}
	t.Fatal("the frame is not on the uplink")
	return 0
}

// TestUplinkVLAN: frames leave with their port's tag; those that come reach the port of their tag if they are addressed to it, with or without
// the tag as --vlan-strip says; others go nowhere, and are counted.
func TestUplinkVLAN(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		strip bool
		promi bool
	}{
		{"strip", nil, true, false},
		{"no strip", []string{"--vlan-strip", "0"}, false, false},
		{"promiscuous, two queues", []string{"-P", "--uplink-queues", "2", "--cores", "0-1"}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := fmt.Sprintf("vhku%d", os.Getpid()%10000)
			sw := startSwitchd(t, append(c.args, "--uplink", "tap:"+name)...)
			s := outside(t, name)
			a, b := dial(t, sw, frontend.Config{}), dial(t, sw, frontend.Config{Packed: true})
			teach(t, sw, a, addr(1))
			teach(t, sw, b, addr(2))
			out := numbered(addr(0x99), addr(2), 200, 7)
			if err := b.Send(0, out); err != nil {
				t.Fatal(err)
			}
			if vlan := vlanOf(t, s, out); vlan != 1001 {
				t.Errorf("port 1's frame left with VLAN %d", vlan)
			}
			own := tagged(numbered(addr(0x99), addr(2), 200, 8), 77) // a guest's own tag stays
			if err := b.Send(0, own); err != nil {
				t.Fatal(err)
			}
			if vlan := vlanOf(t, s, append(bytes.Clone(own[:12]), own[16:]...)); vlan != 77 {
				t.Errorf("a tag of the guest's own became VLAN %d", vlan)
			}
			if err := b.Send(0, tagged(numbered(addr(0x99), addr(2), 200, 8), 1000)); err != nil { // but not as another port
				t.Fatal(err)
			}
			wantDrops(t, sw, 1, "foreign_vlan", 1)
			send := func(f []byte) {
				t.Helper()
				if err := unix.Sendto(s, f, 0, &unix.SockaddrLinklayer{Ifindex: index(t, name)}); err != nil {
					t.Fatal(err)
				}
			}
			drain(a)
			for _, to := range []mac{addr(1), broadcast} {
				in := numbered(to, addr(0x99), 300, 8)
				send(tagged(in, 1000))
				if !c.strip {
					in = tagged(in, 1000)
				}
				expect(t, a, in)
			}
			send(tagged(numbered(addr(2), addr(0x99), 60, 9), 1000)) // another port's address in this VLAN
			if !c.promi {
				expectNothing(t, a)
			} else if _, err := a.Receive(0, time.Second); err != nil {
				t.Errorf("a promiscuous port does not get its VLAN's frames: %v", err)
			}
			send(tagged(numbered(addr(1), addr(0x99), 60, 10), 1777)) // nobody's VLAN
			send(numbered(addr(1), addr(0x99), 60, 11))               // no VLAN
			expectNothing(t, a)
			expectNothing(t, b)
			eventually(t, 3*time.Second, "the uplink counts what went nowhere", func() bool {
				st, err := sw.Client.Stats(context.Background())
				return err == nil && st.Uplink.RX.Drops["no_destination"] >= 2 && st.Uplink.TX.Packets >= 3
			})
		})
	}
}

func index(t *testing.T, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return i.Index
}
