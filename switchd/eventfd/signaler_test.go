package eventfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newSignaler(tb testing.TB) *Signaler {
	tb.Helper()
	s, err := New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

func newEventfd(tb testing.TB) int {
	tb.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}

func count(tb testing.TB, fd int) uint64 {
	tb.Helper()
	var b [8]byte
	if _, err := unix.Read(fd, b[:]); errors.Is(err, unix.EAGAIN) {
		return 0
	} else if err != nil {
		tb.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:])
}

func TestSignal(t *testing.T) {
	s, fd := newSignaler(t), newEventfd(t)
	s.Flush()
	s.Add(fd)
	if n := count(t, fd); n != 0 {
		t.Errorf("%d before Flush", n)
	}
	s.Flush()
	s.Flush()
	if n := count(t, fd); n != 1 {
		t.Errorf("%d after Flush, want 1", n)
	}
}

// TestMany: more than a call, and than the context, holds.
func TestMany(t *testing.T) {
	s := newSignaler(t)
	var fds []int
	for range 200 {
		fds = append(fds, newEventfd(t))
	}
	const rounds = 50
	for range rounds {
		for _, fd := range fds {
			s.Add(fd)
		}
		s.Flush()
	}
	for i, fd := range fds {
		if n := count(t, fd); n != rounds {
			t.Fatalf("eventfd %d has %d, want %d", i, n, rounds)
		}
	}
}

// TestOthersDescriptors: one that is closed, or no eventfd, costs its own signal only.
func TestOthersDescriptors(t *testing.T) {
	s, first, last := newSignaler(t), newEventfd(t), newEventfd(t)
	for range 300 {
		s.Add(first)
		s.Add(-1)
		s.Add(s.null)
		s.Add(1 << 20)
		s.Add(last)
		s.Flush()
	}
	if a, b := count(t, first), count(t, last); a != 300 || b != 300 {
		t.Errorf("%d and %d, want 300", a, b)
	}
}

// TestFullCounterThatBlocks is what the package is for: write(2) would wait here for ever.
func TestFullCounterThatBlocks(t *testing.T) {
	s, fd, other := newSignaler(t), newEventfd(t), newEventfd(t)
	full := binary.NativeEndian.AppendUint64(nil, 1<<64-2)
	if _, err := unix.Write(fd, full); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		for range 1000 {
			s.Add(fd)
			s.Add(other)
			s.Flush()
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the signaler waits")
	}
	if n := count(t, other); n != 1000 {
		t.Errorf("the other one was signalled %d times, want 1000", n)
	}
}

func TestSleeperWakesUp(t *testing.T) {
	s, fd := newSignaler(t), newEventfd(t)
	go func() {
		time.Sleep(20 * time.Millisecond)
		s.Add(fd)
		s.Flush()
	}()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
	if n != 1 || err != nil {
		t.Errorf("poll: %d, %v", n, err)
	}
}

func TestNoAllocation(t *testing.T) {
	s, fd := newSignaler(t), newEventfd(t)
	if n := testing.AllocsPerRun(1000, func() { s.Add(fd); s.Flush() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSignal(b *testing.B) {
	for _, n := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			s, fd := newSignaler(b), newEventfd(b)
			for i := 0; i < b.N; i += n {
				for range n {
					s.Add(fd)
				}
				s.Flush()
			}
		})
	}
	b.Run("write(2)", func(b *testing.B) {
		fd, one := newEventfd(b), [8]byte{1}
		for range b.N {
			_, _ = unix.Write(fd, one[:])
		}
	})
}
