package eventfd

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many signals one system call carries.
	batch = 64
	// events is how many completions the context holds before they must be taken off.
	events = 256
)

// Signaler signals eventfds. It belongs to one thread.
type Signaler struct {
	context  uint64 // aio_context_t
	null     int
	queued   int
	finished int // completions in the context
	requests [batch]request
	pointers [batch]*request
	taken    [events]completion
}

// New makes a Signaler; Close frees it. It fails where the kernel has no asynchronous I/O (CONFIG_AIO, or a system call filter), or has given
// all of it to others.
func New() (*Signaler, error) {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/null: %w", err)
	}
	s := &Signaler{null: null}
	if errno := s.setup(); errno != 0 {
		unix.Close(null)
		return nil, fmt.Errorf("io_setup(2), which eventfds are signalled with: %w (all in use: raise the sysctl fs.aio-max-nr; not there: the kernel needs "+
			"CONFIG_AIO, and a system call filter must allow @aio)", errno)
	}
	for i := range s.requests {
		s.pointers[i] = &s.requests[i]
	}
	return s, nil
}

// Close frees what New took.
func (s *Signaler) Close() {
	s.destroy()
	unix.Close(s.null)
}

// Add queues a signal: 1 is added to the eventfd's counter at the next Flush, at the latest.
func (s *Signaler) Add(fd int) {
	if s.queued == batch {
		s.Flush()
	}
	s.requests[s.queued].signal(s.null, fd)
	s.queued++
}

// Flush sends what is queued. A descriptor that is no eventfd, or closed, is passed over.
func (s *Signaler) Flush() {
	if s.queued == 0 {
		return
	}
	if s.finished+s.queued > events {
		s.finished -= s.reap()
	}
	for first := 0; first < s.queued; {
		n, errno := s.submit(first, s.queued-first)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && s.finished > 0: // the context is full
			s.finished -= s.reap()
		case errno != 0 || n <= 0:
			first++
		default:
			first += n
			s.finished += n
		}
	}
	s.queued = 0
}
