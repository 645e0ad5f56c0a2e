package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/test/internal/proc"
)

var buildOnce struct {
	sync.Once
	dir string
	err error
}

// commandPath builds a command of the project, once for all tests.
func commandPath(t testing.TB, name string) string {
	t.Helper()
	buildOnce.Do(func() {
		if buildOnce.dir, buildOnce.err = os.MkdirTemp("", "vhostkit-e2e-"); buildOnce.err != nil {
			return
		}
		buildOnce.err = proc.Build(buildOnce.dir, "switchd", "qemu-wrap", "vhostctl")
	})
	if buildOnce.err != nil {
		t.Fatal(buildOnce.err)
	}
	return filepath.Join(buildOnce.dir, name)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if buildOnce.dir != "" && !proc.Keep() {
		os.RemoveAll(buildOnce.dir)
	}
	os.Exit(code)
}

// switchd is a switch under test, as a process of its own.
type switchd struct {
	Socket string // shared vhost-user socket
	Dir    string // working directory, with control socket and state
	args   []string
	env    []string // beside the test's own
	cmd    *exec.Cmd
	done   chan struct{} // closed when the process has ended
	out    proc.Buffer
	Client *control.Client
}

// startSwitchd starts a switch with its own sockets and stops it when the test ends; a failed test gets its log.
func startSwitchd(t testing.TB, args ...string) *switchd {
	t.Helper()
	dir, err := os.MkdirTemp("", "vhke2e")
	if err != nil {
		t.Fatal(err)
	}
	s := &switchd{Socket: filepath.Join(dir, "vhost.sock"), Dir: dir}
	control := filepath.Join(dir, "control.sock")
	s.args = append([]string{"--control", control, "--state-dir", dir, "--socket-dir", filepath.Join(dir, "ports")}, args...)
	if !strings.Contains(strings.Join(args, " "), "--socket-file") {
		s.args = append(s.args, "--socket-file", s.Socket)
	}
	s.useControl(control)
	s.Start(t)
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			t.Logf("switchd's log:\n%s", proc.Tail(s.Log(), 60))
		}
		if proc.Keep() {
			_ = os.WriteFile(filepath.Join(dir, "switchd.log"), []byte(s.Log()), 0o644)
		} else {
			os.RemoveAll(dir)
		}
	})
	return s
}

func (s *switchd) useControl(path string) { s.Client = control.NewClient(path) }

// StartLegacy starts a switch that makes its socket in the working directory and has no control socket of its own.
func (s *switchd) StartLegacy(t testing.TB, socket string) {
	t.Helper()
	s.Socket = filepath.Join(s.Dir, socket)
	s.launch(t)
	eventually(t, 10*time.Second, "switchd makes its socket "+socket, func() bool {
		info, err := os.Lstat(s.Socket)
		return err == nil && info.Mode()&os.ModeSocket != 0
	})
}

// Start starts the process, again after Kill9, and waits until it serves.
func (s *switchd) Start(t testing.TB) {
	t.Helper()
	s.launch(t)
	eventually(t, 10*time.Second, "switchd answers on its control socket", func() bool {
		select {
		case <-s.done:
			t.Fatalf("switchd ended:\n%s", s.Log())
		default:
		}
		_, err := s.Client.Version(context.Background())
		return err == nil
	})
}

func (s *switchd) launch(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(commandPath(t, "switchd"), s.args...)
	s.cmd.Dir = s.Dir
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	proc.Show(os.Stderr, "switchd", s.Dir, s.cmd.Args)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	s.done = done
	cmd := s.cmd
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
}

// Kill9 ends the process as a crash would.
func (s *switchd) Kill9(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.done
}

// Stop ends the process in an orderly way, which must not take long, and checks that it cleaned up.
func (s *switchd) Stop(t testing.TB) {
	t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Signal(syscall.SIGQUIT)
		time.Sleep(500 * time.Millisecond)
		_ = s.cmd.Process.Kill()
		t.Errorf("switchd did not stop within 10 s of SIGTERM")
	}
}

// Log is what the process has printed so far.
func (s *switchd) Log() string { return s.out.String() }

func (s *switchd) waitLog(t testing.TB, text string) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("switchd's log has %q", text), func() bool { return strings.Contains(s.Log(), text) })
}

// ports lists ports without the devices of shared sockets that were stopped and are gone.
func (s *switchd) ports(t testing.TB) []control.Port {
	t.Helper()
	ports, err := s.Client.Ports(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(ports, func(p control.Port) bool { return p.Stopped != nil && p.Name == "" })
}

func (s *switchd) waitPorts(t testing.TB, n int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%d ports are connected", n), func() bool { return len(s.ports(t)) == n })
}

// totalPackets is what all guests have sent.
func (s *switchd) totalPackets(t testing.TB) uint64 {
	t.Helper()
	sum := uint64(0)
	for _, p := range s.ports(t) {
		for _, q := range p.Queues {
			sum += q.TX.Packets
		}
	}
	return sum
}

func (s *switchd) wantTrafficOnPairs(t testing.TB, pairs int) {
	t.Helper()
	for _, p := range s.ports(t) {
		running := 0
		for _, q := range p.Queues {
			if q.RXRunning && q.TXRunning {
				running++
			}
		}
		if running != pairs {
			t.Errorf("port %d has %d running queue pairs, want %d", p.ID, running, pairs)
		}
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
