package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/uplink"
)

// ip runs iproute2; without it the test fails, as it shows nothing then.
func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// persistent makes a TAP that stays when nobody has it open.
func persistent(t testing.TB, options ...string) string {
	t.Helper()
	name := fmt.Sprintf("vhkp%d", os.Getpid()%100000)
	ip(t, append([]string{"tuntap", "add", name, "mode", "tap"}, options...)...)
	t.Cleanup(func() { ip(t, "link", "del", name) })
	return name
}

func TestOpenRefuses(t *testing.T) {
	used := open(t, 2)
	tun := fmt.Sprintf("vhku%d", os.Getpid()%100000)
	ip(t, "tuntap", "add", tun, "mode", "tun")
	t.Cleanup(func() { ip(t, "link", "del", tun) })
	for name, c := range map[string]struct {
		config Config
		is     error
		says   string
	}{
		"in use":         {Config{Name: used.Name(), Queues: 1}, unix.EBUSY, "another process uses it"},
		"no TAP":         {Config{Name: "lo", Queues: 1}, unix.EINVAL, "choose another name"},
		"a TUN":          {Config{Name: tun, Queues: 1}, unix.EINVAL, "not a TAP"},
		"long name":      {Config{Name: "sixteen-letters-", Queues: 1}, unix.EINVAL, "sixteen-letters-"},
		"no queues":      {Config{Name: "vhkx", Queues: 0}, nil, "1 to 256 queues"},
		"many queues":    {Config{Name: "vhkx", Queues: 257}, nil, "1 to 256 queues"},
		"MTU too long":   {Config{Name: "vhkx", Queues: 1, MTU: maxMTU + 1}, nil, "MTU up to"},
		"MTU below zero": {Config{Name: "vhkx", Queues: 1, MTU: -1}, nil, "MTU up to"},
	} {
		u, err := Open(c.config)
		if err == nil {
			u.Close()
		}
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v that says %q", name, err, c.is, c.says)
		}
	}
	if link, err := used.Link(); err != nil || !link.Up || !link.Carrier {
		t.Errorf("the interface in use is %+v, %v afterwards", link, err)
	}
}

// TestOpenWaitsForTheLastUser: a switch that is started again meets the end of its forerunner.
func TestOpenWaitsForTheLastUser(t *testing.T) {
	first := open(t, 1)
	closed := make(chan error)
	go func() {
		time.Sleep(100 * time.Millisecond)
		closed <- first.Close()
	}()
	second, err := Open(Config{Name: first.Name(), Queues: 2})
	<-closed
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestPersistentInterface(t *testing.T) {
	for _, c := range []struct {
		option string
		queues int
	}{{"multi_queue", 2}, {"", 1}} { // without the option the kernel allows one queue
		t.Run("persistent "+c.option, func(t *testing.T) {
			name := persistent(t, strings.Fields(c.option)...)
			for range 2 { // it stays, and can be opened again
				u, err := Open(Config{Name: name, Queues: 2, MTU: 9000})
				if err != nil {
					t.Fatal(err)
				}
				if link, err := u.Link(); u.Queues() != c.queues || err != nil || link != (uplink.Link{Up: true, Carrier: true, MTU: 9000}) {
					t.Errorf("%d queues, want %d; %+v, %v", u.Queues(), c.queues, link, err)
				}
				if second, err := Open(Config{Name: name, Queues: 1}); !errors.Is(err, unix.EBUSY) {
					t.Errorf("a second user got %v, %v", second, err)
				}
				u.Close()
			}
		})
	}
}

func TestKernelChoosesTheName(t *testing.T) {
	var names []string
	for range 2 {
		u, err := Open(Config{Name: "vhkn%d", Queues: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		names = append(names, u.Name())
	}
	if names[0] == names[1] || !strings.HasPrefix(names[0], "vhkn") || strings.Contains(names[0], "%") {
		t.Errorf("names %q", names)
	}
}

// TestDownAndRemoved: frames that find the interface down are counted; when it is removed the queue says so once and is not ready for ever.
func TestDownAndRemoved(t *testing.T) {
	u := open(t, 2)
	frames := []uplink.TxFrame{frameFor(filled(t), 100), frameFor(filled(t), 100)}
	ip(t, "link", "set", u.Name(), "down")
	if n, err := u.Queue(0).Send(frames, nil); n != 0 || err != nil || counted(u)["down"] != 2 {
		t.Errorf("down: sent %d, %v, %+v", n, err, counted(u))
	}
	if link, err := u.Link(); err != nil || link.Up {
		t.Errorf("down: %+v, %v", link, err)
	}
	ip(t, "link", "set", u.Name(), "up")
	if n, err := u.Queue(0).Send(frames, nil); n != 2 || err != nil {
		t.Errorf("up again: sent %d, %v", n, err)
	}
	ip(t, "link", "del", u.Name())
	if _, err := u.Link(); !errors.Is(err, uplink.ErrNoDevice) {
		t.Errorf("removed: %v, want ErrNoDevice", err)
	}
	if n, err := u.Queue(0).Send(frames, nil); n != 0 || err != nil || counted(u)["down"] != 4 {
		t.Errorf("removed: sent %d, %v, %+v", n, err, counted(u))
	}
	received := make([]uplink.RxFrame, 4)
	for q := range u.Queues() {
		fd := []unix.PollFd{{Fd: int32(u.Queue(q).FD()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fd, 0); n != 1 || err != nil {
			t.Errorf("queue %d: the removal wakes nobody: %d, %v", q, n, err)
		}
		if _, err := u.Queue(q).Receive(received); !errors.Is(err, uplink.ErrNoDevice) {
			t.Errorf("queue %d: %v, want ErrNoDevice", q, err)
		}
		if n, err := unix.Poll(fd, 0); n != 0 || err != nil {
			t.Errorf("queue %d: still ready: %d, %v", q, n, err)
		}
		if n, err := u.Queue(q).Receive(received); n != 0 || err != nil {
			t.Errorf("queue %d: afterwards %d, %v", q, n, err)
		}
	}
}

// TestMultiQueue: the kernel spreads flows over the queues, and each frame comes exactly once.
func TestMultiQueue(t *testing.T) {
	u := open(t, 2)
	s := packetSocket(t, u.Name())
	const flows = 64
	for i := range flows {
		if _, err := unix.Write(s, udpFrame(uint16(1000+i))); err != nil {
			t.Fatal(err)
		}
	}
	count, perQueue, total := map[uint16]int{}, [2]int{}, 0
	await(t, u, func(q int, r *uplink.RxFrame) bool {
		if b := r.Addr.Bytes(int(r.Len)); len(b) == 60 && b[12] == 8 && b[23] == unix.IPPROTO_UDP && b[26] == 192 {
			count[binary.BigEndian.Uint16(b[34:])]++
			perQueue[q]++
			total++
		}
		return total == flows
	})
	if len(count) != flows || perQueue[0] == 0 || perQueue[1] == 0 {
		t.Errorf("%d different flows of %d, per queue %v", len(count), flows, perQueue)
	}
}

// udpFrame makes a frame of 60 bytes for a flow.
func udpFrame(port uint16) []byte {
	f := make([]byte, 60)
	copy(f, []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(f[34:], port)
	binary.BigEndian.PutUint16(f[36:], 9)
	binary.BigEndian.PutUint16(f[38:], 26)
	return f
}

// TestTruncated: an administrator raised the MTU beyond what fits; such a frame is counted, not delivered cut, and the next one comes.
func TestTruncated(t *testing.T) {
	u := open(t, 1)
	s := packetSocket(t, u.Name())
	ip(t, "link", "set", u.Name(), "mtu", "40000")
	long := append(udpFrame(1), make([]byte, 20000)...)
	for _, f := range [][]byte{long, udpFrame(7)} {
		if _, err := unix.Write(s, f); err != nil {
			t.Fatal(err)
		}
	}
	await(t, u, func(_ int, r *uplink.RxFrame) bool {
		if r.Len > 10000 {
			t.Errorf("a frame of %d bytes", r.Len)
		}
		b := r.Addr.Bytes(int(r.Len))
		return len(b) == 60 && b[12] == 8 && b[35] == 7
	})
	if got := counted(u); !maps.Equal(got, map[string]uint64{"truncated": 1}) {
		t.Errorf("%+v, want one truncated", got)
	}
}

func TestFullMTU(t *testing.T) {
	u, err := Open(Config{Name: fmt.Sprintf("vhkm%d", os.Getpid()%100000), Queues: 1, MTU: maxMTU})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	s := packetSocket(t, u.Name())
	f := make([]byte, 14+maxMTU)
	copy(f, udpFrame(3))
	if _, err := unix.Write(s, f); err != nil {
		t.Fatal(err)
	}
	await(t, u, func(_ int, r *uplink.RxFrame) bool { return int(r.Len) == len(f) })
	if got := counted(u); !maps.Equal(got, map[string]uint64{}) {
		t.Errorf("%+v", got)
	}
}

// FuzzAttributes: the kernel can be trusted, the parser is bounded all the same.
func FuzzAttributes(f *testing.F) {
	f.Add([]byte{8, 0, 4, 0, 0xdc, 5, 0, 0, 5, 0, 3, 0, 'a'})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		eachAttribute(b, func(_ uint16, value []byte) { total += len(value) + unix.SizeofRtAttr })
		if total > len(b) {
			t.Errorf("%d bytes of attributes in %d", total, len(b))
		}
		parseInterface(append(make([]byte, unix.SizeofIfInfomsg), b...))
	})
}
