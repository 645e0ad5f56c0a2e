package nic82599

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// ownNetwork gives this test's thread a network namespace, which ends with it.
func ownNetwork(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		err = unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK)
	}
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("a TAP interface in a network namespace: %v; run as root, with /dev/net/tun", err)
	default:
		t.Skipf("a TAP interface in a network namespace: %v; run as root, with /dev/net/tun", err)
	}
}

// setUp switches an interface on.
func setUp(t *testing.T, name string) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request)
	}
	if err != nil {
		t.Fatalf("switch %s on: %v", name, err)
	}
}

// kernelSide is the other side of a TAP interface: what this program's own frames do there.
func kernelSide(t *testing.T, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	protocol := binary.NativeEndian.Uint16([]byte{0x88, 0xb5}) // not what the kernel itself says there
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
	if err == nil {
		t.Cleanup(func() { _ = unix.Close(s) })
		err = unix.Bind(s, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: i.Index})
	}
	if err == nil {
		err = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestTAP: a card whose cable ends in a TAP interface, frames both ways.
func TestTAP(t *testing.T) {
	ownNetwork(t)
	const name = "card0"
	wire, err := OpenTAP(name)
	if err != nil {
		t.Fatal(err)
	}
	setUp(t, name)
	kernel := kernelSide(t, name)
	r := newRig(t, Config{MAC: mac(1), Wire: wire})
	t.Cleanup(func() { // before the card's own end: what it listens to has to end
		if err := wire.Close(); err != nil {
			t.Error(err)
		}
	})
	r.bringUp()
	r.receive(0)
	r.transmit(0)
	r.start()
	for _, payload := range []string{"short", strings.Repeat("long ", 290)} {
		in, out := eth(mac(1), mac(2), "in, "+payload), eth(mac(2), mac(1), "out, "+payload)
		if _, err := unix.Write(kernel, in); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for end := time.Now().Add(5 * time.Second); got == nil; time.Sleep(time.Millisecond) {
			got, _, _ = r.got(0)
			if time.Now().After(end) {
				t.Fatal("nothing came through the TAP interface")
			}
		}
		if !slices.Equal(got, in) {
			t.Errorf("%x arrived of %x", got, in)
		}
		r.send(0, out, 0, 0)
		room := make([]byte, 2048)
		for {
			n, _, err := unix.Recvfrom(kernel, room, 0)
			if err != nil {
				t.Fatalf("nothing came out of the TAP interface: %v", err)
			}
			if slices.Equal(room[:n], in) { // its own
				continue
			}
			if !slices.Equal(room[:n], out) {
				t.Errorf("%x came out of %x", room[:n], out)
			}
			break
		}
	}
	if n := r.r(regs.GPTC); n != 2 {
		t.Errorf("the card has sent %d frames, want 2", n)
	}
}

func TestTAPErrors(t *testing.T) {
	ownNetwork(t)
	const long = "a-name-that-is-too-long"
	if _, err := OpenTAP(long); err == nil || !strings.Contains(err.Error(), long) {
		t.Errorf("%v does not say which interface", err)
	}
	wire, err := OpenTAP("twice")
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	if _, err := OpenTAP("twice"); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("%v: the interface has one card", err)
	}
}
