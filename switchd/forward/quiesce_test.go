package forward

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/virtio"
)

// openEventfd is an eventfd that the test closes itself.
func openEventfd(t *testing.T) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestCallChangesLoseNothing: 500 changes of the receiver's call descriptor while frames flow. Each frame arrives, no table changes, and nothing
// is written to a descriptor after its time.
func TestCallChangesLoseNothing(t *testing.T) {
	s := startSwitch(t, Config{Cores: []int{-1, -1}, VM2VM: VM2VMSoftware})
	a, b := newGuest(t, s, 256), newGuest(t, s, 256)
	b.send(testFrame(9, 2, 60, 0)) // learned
	for end := time.Now().Add(5 * time.Second); len(s.Addresses()) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	var stop atomic.Bool
	done := make(chan int)
	go func() {
		n := 0
		for ; !stop.Load(); n += 16 {
			for range 16 {
				a.send(testFrame(2, 1, 60, 0))
			}
			if got := len(b.receive(16, 10*time.Second)); got != 16 {
				t.Errorf("%d of 16 frames arrived after %d", got, n)
				break
			}
		}
		done <- n
	}()
	epoch, queue := s.table.Load().epoch, b.rx.queue
	last := openEventfd(t)
	for range 500 {
		next := openEventfd(t)
		queue.SetCall(next, false)
		b.port.Quiesce(queue)
		var count [8]byte
		_, _ = unix.Read(last, count[:])
		time.Sleep(10 * time.Microsecond)
		if n, _ := unix.Read(last, count[:]); n > 0 {
			t.Error("the old descriptor is used after Quiesce")
		}
		unix.Close(last)
		last = next
	}
	queue.SetCall(-1, false)
	b.port.Quiesce(queue)
	unix.Close(last)
	stop.Store(true)
	if n := <-done; n == 0 {
		t.Error("no traffic")
	}
	if now := s.table.Load().epoch; now != epoch {
		t.Errorf("%d new tables", now-epoch)
	}
}

// TestQuiesceWakesTheDriver: a call that went to the old descriptor when nobody looked at it any more is made up for, but not on a ring that
// has stopped; and it returns whatever has become of the switch.
func TestQuiesceWakesTheDriver(t *testing.T) {
	s := startSwitch(t, Config{})
	g := newGuest(t, s, 16)
	fd := openEventfd(t)
	defer unix.Close(fd)
	called := func(limit time.Duration) bool {
		var count [8]byte
		for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if n, _ := unix.Read(fd, count[:]); n == 8 {
				return true
			}
		}
		return false
	}
	g.rx.queue.SetCall(fd, false)
	g.port.Quiesce(g.rx.queue)
	if !called(10 * time.Second) {
		t.Error("the driver was not woken")
	}
	g.port.Update([]*virtio.Queue{nil, g.tx.queue}, rigFeatures, g.memory)
	g.port.Quiesce(g.rx.queue)
	if called(50 * time.Millisecond) {
		t.Error("the descriptor of a ring that has stopped is used")
	}
	g.port.Close()
	g.port.Quiesce(g.rx.queue)
	idle := New(Config{})
	port, err := idle.AddPort(func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	port.Quiesce(g.rx.queue) // nothing runs
}
