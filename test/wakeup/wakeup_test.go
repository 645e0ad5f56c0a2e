// Package wakeup tests the edge between sleep and wake with a front-end that sleeps as soon as it may: it kicks only when asked, and waits on
// its call eventfd. If either side misses that it should wake the other, both sleep.
package wakeup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/config"
	"vhostkit/switchd/daemon"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/logging"
	"vhostkit/test/frontend"
)

const (
	// late is what no frame may be.
	late = 200 * time.Millisecond
	// pauses are as long as it takes the worker to get tired (forward/sleep.go: 10 to 200 µs), and a little more.
	longestPause = 300 * time.Microsecond
)

// rounds is the number of frames of each kind of ring; VHOSTKIT_STRESS_ROUNDS, a number of buffers elsewhere, makes it ten times as many.
func rounds(t *testing.T) int {
	s := os.Getenv("VHOSTKIT_STRESS_ROUNDS")
	if s == "" {
		return 1500
	}
	if n, err := strconv.Atoi(s); err != nil || n < 1 {
		t.Fatalf("VHOSTKIT_STRESS_ROUNDS=%q is not a number", s)
	}
	return 5000
}

// startSwitch runs a switch in this process.
func startSwitch(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vhkwake")
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	out, err := logging.Open(logging.Config{Stdout: null, Stderr: null})
	if err != nil {
		t.Fatal(err)
	}
	c := config.DefaultConfig()
	socket = filepath.Join(dir, "v.sock")
	c.SocketFiles, c.ControlSocket, c.SocketDir, c.StateDir = []string{socket}, filepath.Join(dir, "c.sock"), filepath.Join(dir, "p"), dir
	d, err := daemon.New(c, out)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		out.Close()
		os.RemoveAll(dir)
	})
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(c.ControlSocket); err == nil {
			return socket
		}
	}
	t.Fatal("the switch does not start")
	return ""
}

// TestNobodyOversleeps: no frame is noticed later than 200 ms.
func TestNobodyOversleeps(t *testing.T) {
	socket := startSwitch(t)
	for _, packed := range []bool{false, true} {
		for _, event := range []bool{false, true} {
			for _, pairs := range []int{2, 4} {
				t.Run(fmt.Sprintf("packed=%v/event=%v/pairs=%d", packed, event, pairs), func(t *testing.T) {
					c := frontend.Config{Socket: socket, Packed: packed, EventIdx: event, QueuePairs: pairs, RingSize: 8}
					newSleeper(t, c).run(t, rounds(t))
				})
			}
		}
	}
}

// sleeper is two devices and the one thread that drives both: it sends from the first and receives at the second.
type sleeper struct {
	from, to *frontend.Device
	fence    guestmem.Fence
	rnd      *rand.Rand
	sleeps   int
}

func newSleeper(t *testing.T, c frontend.Config) *sleeper {
	t.Helper()
	s := &sleeper{rnd: rand.New(rand.NewPCG(1, 2))}
	for _, d := range []**frontend.Device{&s.from, &s.to} {
		device, err := frontend.Dial(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(device.Close)
		*d = device
	}
	if err := s.to.Send(0, frame(0xee, 2)); err != nil { // learned
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	return s
}

func frame(to, from byte) []byte {
	f := make([]byte, 60)
	copy(f, []byte{2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5})
	return f
}

func (s *sleeper) run(t *testing.T, rounds int) {
	t.Helper()
	for p := range s.to.RX {
		s.to.RX[p].WantCalls(false, &s.fence)
		s.from.TX[p].WantCalls(false, &s.fence)
	}
	for i := range rounds {
		p := s.rnd.IntN(len(s.to.RX))
		s.pause()
		if err := s.from.Send(p, frame(2, 1)); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		// What is waited for is the frame, or that its buffer comes back.
		if err := s.await(s.to.RX[p]); err != nil {
			t.Fatalf("frame %d at the receiver, pair %d: %v", i, p, err)
		}
		if _, err := s.to.Receive(p, late); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if err := s.await(s.from.TX[p]); err != nil {
			t.Fatalf("frame %d back at the sender, pair %d: %v", i, p, err)
		}
		s.from.Reclaim(p)
	}
	if s.sleeps < rounds/20 {
		t.Errorf("slept %d times in %d rounds: nothing was tested", s.sleeps, rounds)
	}
	t.Logf("%d frames, slept %d times", rounds, s.sleeps)
}

// pause spins, so that its end is exact.
func (s *sleeper) pause() {
	for end := time.Now().Add(time.Duration(s.rnd.Int64N(int64(longestPause)))); time.Now().Before(end); {
	}
}

// await returns when the device has returned a buffer: it looks a few times, asks for a call, looks once more, and sleeps.
func (s *sleeper) await(r *frontend.Ring) error {
	for range s.rnd.IntN(200) {
		if r.Returned() {
			return nil
		}
	}
	defer r.WantCalls(false, &s.fence)
	for deadline := time.Now().Add(late); ; {
		r.WantCalls(true, &s.fence)
		if r.Returned() {
			return nil
		}
		s.sleeps++
		left := time.Until(deadline)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(r.Call), Events: unix.POLLIN}}, max(int(left/time.Millisecond), 0))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case n == 0 && r.Returned():
			return fmt.Errorf("returned, and no call came within %v", late)
		case n == 0:
			return fmt.Errorf("not returned within %v", late)
		default:
			var count [8]byte
			_, _ = unix.Read(r.Call, count[:])
		}
	}
}
