package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/test/frontend"
)

// patience is for what must come, however loaded the machine is.
const patience = 30 * time.Second

// asSwitchd makes the test's binary switchd.
const asSwitchd = "VHOSTKIT_TEST_AS_SWITCHD"

func TestMain(m *testing.M) {
	if os.Getenv(asSwitchd) != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is switchd, with both outputs in one pipe.
type process struct {
	*exec.Cmd
	socket string
	output *os.File
	ended  chan struct{}
}

func startSwitchd(t *testing.T) *process {
	t.Helper()
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{socket: filepath.Join(dir, "v.sock"), output: r, ended: make(chan struct{})}
	p.Cmd = exec.Command(os.Args[0], "--socket-file", p.socket, "--control", filepath.Join(dir, "c.sock"), "--socket-dir", filepath.Join(dir, "p"),
		"--state-dir", filepath.Join(dir, "s"), "--qemu-socket", "none", "--uplink", "none")
	p.Env = append(os.Environ(), asSwitchd+"=1")
	p.Stdout, p.Stderr = w, w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		_ = p.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.ended
		r.Close()
	})
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", p.socket); err == nil {
			c.Close()
			return p
		}
		if time.Now().After(end) {
			t.Fatal("switchd does not serve its socket")
		}
	}
}

func (p *process) dial(t *testing.T) *frontend.Device {
	t.Helper()
	d, err := frontend.Dial(frontend.Config{Socket: p.socket, RingSize: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// fill makes the switch print a line for each of 1280 addresses, more than a pipe holds.
func (p *process) fill(t *testing.T) {
	t.Helper()
	for i := range 20 {
		d := p.dial(t)
		for j := range 64 {
			f := make([]byte, 60)
			copy(f, []byte{2, 0, 0, 0, 0, 0x77, 2, 0, 0, 0, byte(i), byte(j)})
			if err := d.Send(0, f); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(time.Second); d.Reclaim(0) == 0 && time.Now().Before(end); {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
}

// breakRing breaks the rules and waits for the end of the connection.
func (p *process) breakRing(t *testing.T) {
	t.Helper()
	d := p.dial(t)
	d.TX[0].Driver().StoreReleaseU32(0x7fff << 16) // an avail index that cannot be
	d.TX[0].KickNow()
	_ = d.Conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := d.Conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%v after a guest broke its ring: %v; want the connection closed", patience, err)
	}
}

// exchange sends a frame between two guests whose addresses are new.
func (p *process) exchange(t *testing.T) {
	t.Helper()
	a, b := p.dial(t), p.dial(t)
	there, back := make([]byte, 60), make([]byte, 60)
	copy(there, []byte{2, 0, 0, 0, 0xaa, 2, 2, 0, 0, 0, 0xaa, 1})
	copy(back, []byte{2, 0, 0, 0, 0xaa, 1, 2, 0, 0, 0, 0xaa, 2})
	for end := time.Now().Add(patience); ; {
		if err := errors.Join(a.Send(0, there), b.Send(0, back)); err != nil {
			t.Fatal(err)
		}
		_, err := a.Receive(0, time.Second)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Errorf("guests with new addresses: %v", err)
			return
		}
		a.Reclaim(0)
		b.Reclaim(0)
	}
}

func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
		if code := p.ProcessState.ExitCode(); code != 0 {
			t.Errorf("switchd ended with %v", p.ProcessState)
		}
	case <-time.After(patience):
		t.Error("SIGTERM does not end switchd")
	}
}

// TestNobodyReads: nobody reads the switch's output (a pager, a stopped terminal, a journal that is behind), and guests fill the pipe. A guest that
// breaks the rules is stopped all the same, others learn addresses, and SIGTERM ends the process.
func TestNobodyReads(t *testing.T) {
	p := startSwitchd(t)
	p.fill(t)
	p.breakRing(t)
	p.exchange(t)
	p.terminate(t)
}

// TestReaderGoes: whoever read the output has ended. That is no reason to end, too.
func TestReaderGoes(t *testing.T) {
	p := startSwitchd(t)
	p.output.Close()
	p.fill(t)
	p.breakRing(t)
	p.terminate(t)
}
