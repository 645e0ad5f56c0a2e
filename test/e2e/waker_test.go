package e2e

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waker is a thread that sleeps in epoll until an eventfd is written: the least that any switch needs to be woken.
type waker struct {
	fd    int
	awake atomic.Int64
}

func newWaker(tb testing.TB) *waker {
	tb.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		tb.Fatal(err)
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		tb.Fatal(err)
	}
	w := &waker{fd: fd}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var events [1]unix.EpollEvent
		var count [8]byte
		for {
			if _, err := unix.EpollWait(epoll, events[:], -1); err == unix.EINTR {
				continue
			}
			w.awake.Store(1)
			if _, err := unix.Read(fd, count[:]); err != nil || count[0] > 1 {
				return
			}
		}
	}()
	tb.Cleanup(func() {
		_, _ = unix.Write(fd, []byte{2, 0, 0, 0, 0, 0, 0, 0})
		<-done
		unix.Close(fd)
		unix.Close(epoll)
	})
	return w
}

// wake measures from the write to the thread's first step.
func (w *waker) wake() time.Duration {
	w.awake.Store(0)
	begin := time.Now()
	_, _ = unix.Write(w.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	for w.awake.Load() == 0 {
	}
	return time.Since(begin)
}
