package logging

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what must end, however loaded the machine is.
const patience = 20 * time.Second

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

func newWriter(t *testing.T, f *os.File) *Writer {
	t.Helper()
	w, err := NewWriter(f, func(lines int) []byte { return fmt.Appendf(nil, "lost %d\n", lines) })
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// within fails the test if f does not return.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s: waits for the reader", what)
	}
}

// TestStandingReader: writing goes on, the queue stays bounded, closing is bounded, and a reader that is back sees each line or its loss.
func TestStandingReader(t *testing.T) {
	r, f := pipe(t)
	w := newWriter(t, f)
	const sent = 3 * maxEntries
	within(t, "writing", func() {
		for i := range sent {
			fmt.Fprintf(w, "line %d of %d\n", i, sent)
		}
	})
	w.mu.Lock()
	entries, bytes := len(w.queue), w.bytes
	w.mu.Unlock()
	if entries > maxEntries || bytes > maxBytes {
		t.Errorf("%d entries, %d bytes wait; allowed are %d, %d", entries, bytes, maxEntries, maxBytes)
	}
	within(t, "closing", func() {
		if w.Close(10 * time.Millisecond) {
			t.Error("everything was written, says Close; nobody has read it")
		}
	})
	f.Close()
	read, lost, last := 0, 0, ""
	within(t, "reading", func() {
		for s := bufio.NewScanner(r); s.Scan(); {
			last = s.Text()
			if n := 0; strings.HasPrefix(last, "lost") {
				fmt.Sscanf(last, "lost %d", &n)
				lost += n
				continue
			}
			read++
		}
	})
	if read+lost != sent || lost == 0 {
		t.Errorf("%d lines read, %d lost; sent were %d", read, lost, sent)
	}
	if want := fmt.Sprintf("line %d of %d", sent-1, sent); last != want {
		t.Errorf("the last line is %q, want %q", last, want)
	}
}

// TestLargeEntries: the queue is bounded in bytes as well, and an entry that is larger than the queue goes through alone.
func TestLargeEntries(t *testing.T) {
	_, f := pipe(t)
	w := newWriter(t, f)
	entry := []byte(strings.Repeat("x", maxBytes/4) + "\n")
	for range 20 {
		w.Write(entry)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bytes > maxBytes || len(w.queue) == 0 {
		t.Errorf("%d bytes wait in %d entries", w.bytes, len(w.queue))
	}
}

// TestScreenWaits: a screen that would come behind unread output is dropped, and is not counted as lost.
func TestScreenWaits(t *testing.T) {
	_, f := pipe(t)
	w := newWriter(t, f)
	w.Write([]byte(strings.Repeat("x", 1<<17) + "\n")) // more than a pipe holds
	if w.WriteIdle([]byte("screen\n")) {
		t.Error("a screen was queued behind unread output")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost != 0 {
		t.Errorf("%d lines count as lost", w.lost)
	}
}

// TestCloseWritesAll: the last lines of a process are written where somebody reads.
func TestCloseWritesAll(t *testing.T) {
	r, f := pipe(t)
	w := newWriter(t, f)
	f.Close()
	const sent = 5000 // more than a pipe holds
	read := make(chan int)
	go func() {
		n := 0
		for s := bufio.NewScanner(r); s.Scan(); n++ {
		}
		read <- n
	}()
	for i := range sent {
		fmt.Fprintf(w, "a line that is so long that five thousand do not fit into a pipe: %d\n", i)
	}
	if !w.Close(patience) {
		t.Error("Close: something was left")
	}
	if n := <-read; n != sent {
		t.Errorf("%d lines arrived, want %d", n, sent)
	}
	if n, err := w.Write([]byte("late\n")); n != 5 || err != nil {
		t.Errorf("writing after Close: %d, %v", n, err)
	}
}

// TestFullDisk: lines that cannot be written are counted, and told when there is room again.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	w := newWriter(t, full)
	for range 3 {
		w.Write([]byte("two\nlines\n"))
	}
	settle(t, w)
	w.mu.Lock()
	lost := w.lost
	w.mu.Unlock()
	if lost != 6 {
		t.Errorf("%d lines count as lost, want 6", lost)
	}
	r, f := pipe(t)
	if err := unix.Dup3(int(f.Fd()), int(w.file.Fd()), unix.O_CLOEXEC); err != nil { // there is room again
		t.Fatal(err)
	}
	f.Close()
	w.Write([]byte("back\n"))
	w.Close(patience)
	var b [100]byte
	if n, _ := r.Read(b[:]); string(b[:n]) != "lost 6\nback\n" && string(b[:n]) != "lost 6\n" {
		t.Errorf("read %q", b[:n])
	}
}

// settle waits until everything that is queued has been tried.
func settle(t *testing.T, w *Writer) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		idle := !w.busy && len(w.queue) == 0
		w.mu.Unlock()
		if idle {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the queue is not emptied")
		}
	}
}

// TestReaderGone: EPIPE ends nothing.
func TestReaderGone(t *testing.T) {
	r, f := pipe(t)
	r.Close()
	w := newWriter(t, f)
	for range 10 {
		w.Write([]byte("line\n"))
	}
	within(t, "closing", func() {
		if w.Close(patience) {
			t.Error("everything was written, says Close")
		}
	})
}

// TestNonBlockingFile: a descriptor that another process has made non-blocking loses nothing.
func TestNonBlockingFile(t *testing.T) {
	r, f := pipe(t)
	w := newWriter(t, f)
	if err := unix.SetNonblock(int(f.Fd()), true); err != nil { // of the open file, which w shares
		t.Fatal(err)
	}
	f.Close()
	const size = 1 << 18 // more than a pipe holds
	w.Write([]byte(strings.Repeat("x", size) + "\n"))
	within(t, "reading", func() {
		s := bufio.NewScanner(r)
		s.Buffer(nil, 2*size)
		if !s.Scan() || len(s.Text()) != size {
			t.Errorf("%d bytes arrived: %v", len(s.Text()), s.Err())
		}
	})
	if !w.Close(patience) {
		t.Error("something was lost")
	}
}
