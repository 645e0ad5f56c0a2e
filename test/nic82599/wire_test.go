package nic82599

import (
	stdbytes "bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPcapWire: what goes out is in the file, and a file's frames come in.
func TestPcapWire(t *testing.T) {
	frames := [][]byte{eth(mac(1), mac(2), "one"), eth(mac(1), mac(3), string(make([]byte, 1400)))}
	path := filepath.Join(t.TempDir(), "wire.pcap")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out, err := NewPcapWire(nil, file)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if err := out.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := <-out.Receive(); ok {
		t.Error("a wire without a file gives frames")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	in, err := NewPcapWire(stdbytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	for f := range in.Receive() {
		got = append(got, f)
	}
	if !slices.EqualFunc(got, frames, slices.Equal[[]byte]) {
		t.Errorf("%x came back of %x", got, frames)
	}
	for n := range data { // a file that ends too early is an error, or ends between frames
		if list, err := ReadPcap(stdbytes.NewReader(data[:n])); err == nil && len(list) == len(frames) {
			t.Errorf("%d of %d bytes give all frames", n, len(data))
		}
	}
}

// TestSocketWire: a card on one end of a socket pair.
func TestSocketWire(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := SocketWire(fds[0]), SocketWire(fds[1])
	f := eth(mac(1), mac(2), "through a socket")
	if err := a.Send(f); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-b.Receive():
		if !slices.Equal(got, f) {
			t.Errorf("%x came of %x", got, f)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nothing came")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	select {
	case _, ok := <-b.Receive():
		if ok {
			t.Error("a frame from a closed end")
		}
	case <-time.After(5 * time.Second):
		t.Error("the other end does not notice")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
