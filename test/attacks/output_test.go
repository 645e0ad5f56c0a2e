package attacks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/test/frontend"
)

func itoa(n int) string { return strconv.Itoa(n) }

// has tells whether the switchd under attack knows an option.
func has(t testing.TB, option string) bool {
	t.Helper()
	out, err := exec.Command(*switchdPath, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(out), option)
}

// TestConnectLog: connecting and going away as fast as possible writes few lines (audit 22).
func TestConnectLog(t *testing.T) {
	d := start(t)
	p := newPair(t, d, innocent)
	before, n := len(d.out.String()), 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); n++ {
		conn, err := connect(hostile, d.socket)
		if err != nil { // the backlog is full
			time.Sleep(time.Millisecond)
			continue
		}
		conn.Close()
	}
	time.Sleep(300 * time.Millisecond)
	lines := strings.Count(d.out.String()[before:], "\n")
	t.Logf("%d connections in 2 s: %d lines", n, lines)
	if lines > 100 {
		t.Errorf("%d connections made switchd write %d lines in 2 s", n, lines)
	}
	p.keepsTalking(t, "after connections")
	d.goesOn(t)
}

// TestAddressLog: a guest that changes its address without end writes next to nothing, once the lines are used up that a guest with as many addresses
// as it may have needs (audit 22).
func TestAddressLog(t *testing.T) {
	d := start(t)
	p := newPair(t, d, innocent)
	evil, err := dial(hostile, frontend.Config{Socket: d.socket})
	if err != nil {
		t.Fatal(err)
	}
	defer evil.Close()
	n := 0
	churn := func(while time.Duration) (lines int) {
		before := len(d.out.String())
		for end := time.Now().Add(while); time.Now().Before(end); n++ {
			_ = evil.Send(0, frame(address(0xee), churned(n), 60))
			time.Sleep(200 * time.Microsecond)
		}
		return strings.Count(d.out.String()[before:], "\n")
	}
	first, then := churn(2500*time.Millisecond), churn(3*time.Second)
	t.Logf("%d addresses: %d lines, then %d in 3 s", n, first, then)
	if first > 300 || then > 10 {
		t.Errorf("%d addresses made switchd write %d lines, and then %d in 3 s", n, first, then)
	}
	p.keepsTalking(t, "after many addresses")
	d.goesOn(t)
}

// churned is the nth address of a guest that changes it.
func churned(n int) (m mac) {
	m = mac{2, 0xc0}
	binary.BigEndian.PutUint32(m[2:], uint32(n))
	return m
}

// TestOutputStandsStill: nobody reads what switchd writes (audit 23). A guest that breaks the rules is stopped all the same, new addresses are learned,
// and the switch ends.
func TestOutputStandsStill(t *testing.T) {
	d := newDaemon(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d.launch(t, w)
	w.Close()
	p := newPair(t, d, innocent)
	for i := range 20 { // lines enough to fill the pipe
		dev, err := dial(hostile, frontend.Config{Socket: d.socket, RingSize: 64})
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		for j := range 60 {
			_ = dev.Send(0, frame(address(0xee), address(0x4000+i<<8+j), 60))
		}
	}
	for range 600 {
		if conn, err := connect(hostile, d.socket); err == nil {
			conn.Close()
		}
	}
	time.Sleep(300 * time.Millisecond)
	bad, err := dial(hostile, frontend.Config{Socket: d.socket, RingSize: 64})
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	bad.TX[0].Driver().StoreReleaseU32(0x7fff << 16) // an avail index that cannot be
	bad.TX[0].KickNow()
	_ = bad.Conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := bad.Conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("3 s after a guest broke its ring it is still connected: %v", err)
	} else if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
	p.keepsTalking(t, "while nobody reads the output")
	d.goesOn(t)
	d.stop(t)
}

// TestFullDisk: the file system of the state is full, before the start or after it (audit 10). Guests with packed rings, whose positions are kept there,
// go on.
func TestFullDisk(t *testing.T) {
	for _, when := range []string{"before the start", "while it runs"} {
		t.Run(when, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			if err := os.Mkdir(state, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("state", state, "tmpfs", 0, "size=4M"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(state, unix.MNT_DETACH) }()
			d := newDaemon(t, "--state-dir", state)
			if when == "before the start" {
				fill(t, state)
			}
			d.launch(t, d.out)
			p := newPair(t, d, innocent)
			if when != "before the start" {
				fill(t, state)
			}
			for i := range 3 {
				g, err := dial(innocent, frontend.Config{Socket: d.socket, Packed: true})
				if err != nil {
					t.Fatalf("guest %d with packed rings does not get on: %v", i, err)
				}
				defer g.Close()
				_ = g.Send(0, frame(p.b, address(0x70+i), 60))
			}
			time.Sleep(200 * time.Millisecond)
			p.keepsTalking(t, "with a full disk")
			d.goesOn(t)
		})
	}
}

// fill leaves no byte free.
func fill(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 4096; size > 0; size /= 64 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(fmt.Errorf("filling %s: %w", dir, err))
	}
}
