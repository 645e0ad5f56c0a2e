package logging

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a Writer's queue: what can wait for a reader that stands still.
const (
	maxBytes   = 1 << 20
	maxEntries = 1 << 13
)

// retryWrite is how often a descriptor that somebody else has made non-blocking is tried again.
const retryWrite = 10 * time.Millisecond

// Writer writes to a file and never waits for it: Write puts its bytes into a bounded queue. When that is full the oldest lines are dropped,
// so that the reason of an end is not among them, and where they were missed one line says how many. Errors of the file (its reader has
// gone, the disk is full) are lost lines, too. Safe for concurrent use.
type Writer struct {
	file *os.File
	loss func(lines int) []byte
	torn bool // the file ends within a line; the writing goroutine's

	mu     sync.Mutex
	work   sync.Cond // the queue or closed has changed
	queue  [][]byte  // oldest first
	bytes  int       // in queue
	busy   bool      // an entry is being written
	lost   int       // lines since the file was last told
	closed bool
	done   chan struct{} // closed when the writing goroutine has ended
}

// NewWriter writes to a descriptor of its own for f's file, so that f stays the caller's and an EPIPE on standard output is no SIGPIPE. loss makes
// the line that stands for lost ones.
func NewWriter(f *os.File, loss func(lines int) []byte) (*Writer, error) {
	fd, err := duplicate(f)
	if err != nil {
		return nil, fmt.Errorf("output %s: another descriptor of it: %w", f.Name(), err)
	}
	w := &Writer{file: os.NewFile(uintptr(fd), f.Name()), loss: loss, done: make(chan struct{})}
	w.work.L = &w.mu
	go w.run()
	return w, nil
}

// duplicate leaves f's blocking mode alone, which File.Fd would not.
func duplicate(f *os.File) (fd int, err error) {
	c, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	inner := c.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) })
	return fd, errors.Join(inner, err)
}

// Write queues p, which is whole lines. It keeps no reference to p and returns no error.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.push(p)
	return len(p), nil
}

// WriteIdle is Write where nothing is waiting to be written; otherwise it drops p without counting it, and returns false. It is for output
// that is stale by the time a slow reader comes to it.
func (w *Writer) WriteIdle(p []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy || len(w.queue) > 0 {
		return false
	}
	w.push(p)
	return true
}

// push makes room by dropping the oldest entries. The caller holds mu.
func (w *Writer) push(p []byte) {
	if w.closed || len(p) == 0 {
		return
	}
	for len(w.queue) > 0 && (len(w.queue) >= maxEntries || w.bytes+len(p) > maxBytes) {
		w.lost += lines(w.pop())
	}
	w.queue = append(w.queue, bytes.Clone(p))
	w.bytes += len(p)
	w.work.Signal()
}

// pop takes the oldest entry. The caller holds mu.
func (w *Writer) pop() []byte {
	entry := w.queue[0]
	w.queue[0] = nil
	w.queue = w.queue[1:]
	w.bytes -= len(entry)
	return entry
}

func lines(entry []byte) int { return max(bytes.Count(entry, []byte("\n")), 1) }

// Close writes what is queued, for at most limit, and ends the Writer; what is written to it afterwards is dropped. It returns false if
// something was left.
func (w *Writer) Close(limit time.Duration) bool {
	w.mu.Lock()
	w.closed = true
	w.work.Signal()
	w.mu.Unlock()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-w.done:
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.lost == 0
	case <-timeout.C: // the goroutine stays in write(2); that ends with the process
		return false
	}
}

func (w *Writer) run() {
	defer close(w.done)
	defer w.file.Close()
	for {
		entry, lost, more := w.next()
		if lost > 0 && !w.put(w.loss(lost)) {
			w.lose(lost)
		}
		if !more {
			return
		}
		if !w.put(entry) {
			w.lose(lines(entry))
		}
	}
}

// next waits for an entry. lost is how many lines are missing before it; more is false at the end.
func (w *Writer) next() (entry []byte, lost int, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	for len(w.queue) == 0 && !w.closed {
		w.work.Wait()
	}
	lost, w.lost = w.lost, 0
	if len(w.queue) == 0 {
		return nil, lost, false
	}
	w.busy = true
	return w.pop(), lost, true
}

func (w *Writer) lose(n int) {
	w.mu.Lock()
	w.lost += n
	w.mu.Unlock()
}

// put writes an entry, for as long as the reader takes. It returns false if not all of it could be written.
func (w *Writer) put(entry []byte) bool {
	if w.torn {
		entry = append([]byte("\n"), entry...)
	}
	for len(entry) > 0 {
		n, err := w.file.Write(entry)
		if n > 0 {
			w.torn = entry[n-1] != '\n'
			entry = entry[n:]
		}
		switch {
		case errors.Is(err, unix.EAGAIN):
			time.Sleep(retryWrite)
		case err != nil:
			return false
		}
	}
	return true
}
