// Package attacks runs switchd as a process, attacks it as a hostile guest, front-end or member of QEMU's group may, and looks at what the
// others keep: the process, their frames, the way in for new guests, the control socket, and counters that add up.
//
// Another switchd than the project's own is attacked with: go test ./test/attacks -switchd PATH
package attacks

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/control"
	"vhostkit/test/frontend"
	"vhostkit/test/internal/proc"
)

var switchdPath = flag.String("switchd", "", "`PATH` of the switchd to attack, instead of the project's own")

// stopBound is how long switchd may take to end after SIGTERM, whatever foreigners do to it.
const stopBound = 6 * time.Second

// TestMain builds switchd once. Goroutines of attackers must not keep those of the innocent from running.
func TestMain(m *testing.M) {
	flag.Parse()
	runtime.GOMAXPROCS(16)
	if os.Getuid() != 0 {
		fmt.Println("the attacks need root, to act as several users")
		if os.Getenv("CI") == "true" {
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir := ""
	if *switchdPath == "" {
		dir, _ = os.MkdirTemp("", "attacks")
		*switchdPath = filepath.Join(dir, "switchd")
		if err := proc.Build(dir, "switchd"); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// daemon is a switchd under attack.
type daemon struct {
	dir    string
	socket string // shared vhost-user socket; everybody may connect
	broker string // QEMU's socket; everybody may connect
	admin  string // control socket
	client *control.Client
	before []string // command that executes switchd, with its arguments
	args   []string
	cmd    *exec.Cmd
	out    *proc.Buffer
	ended  chan struct{}
}

// newDaemon prepares a switchd with sockets of its own; nothing is started yet.
func newDaemon(t testing.TB, args ...string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "att")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	d := &daemon{dir: dir, socket: at("v.sock"), broker: at("qemu.sock"), admin: at("c.sock"), out: &proc.Buffer{}}
	d.client = control.NewClient(d.admin)
	d.args = append([]string{"--socket-file", d.socket, "--socket-mode", "0666", "--control", d.admin, "--qemu-socket", d.broker,
		"--qemu-group", strconv.Itoa(os.Getgid()), "--socket-dir", at("p"), "--state-dir", at("s"), "--uplink", "none"}, args...)
	t.Cleanup(func() {
		d.stop(t)
		if t.Failed() {
			t.Logf("switchd's log ends with:\n%s", proc.Tail(d.out.String(), 12))
		}
		os.RemoveAll(dir)
	})
	return d
}

// start starts a switchd that serves, and ends it within stopBound when the test ends.
func start(t testing.TB, args ...string) *daemon {
	t.Helper()
	d := newDaemon(t, args...)
	d.launch(t, d.out)
	return d
}

// launch starts the process and waits until it serves.
func (d *daemon) launch(t testing.TB, stdout interface{ Write([]byte) (int, error) }) {
	t.Helper()
	command := append(append([]string{}, d.before...), append([]string{*switchdPath}, d.args...)...)
	d.cmd = exec.Command(command[0], command[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = stdout, stdout
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended, cmd := make(chan struct{}), d.cmd
	d.ended = ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	eventually(t, 10*time.Second, "switchd answers on its control socket", func() bool {
		if d.dead() {
			t.Fatalf("switchd ended: %s", proc.Tail(d.out.String(), 30))
		}
		_, err := d.client.Version(context.Background())
		return err == nil
	})
	eventually(t, 5*time.Second, "QEMU's socket is there", func() bool { return os.Chmod(d.broker, 0o666) == nil })
}

func (d *daemon) dead() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

func (d *daemon) pid() int { return d.cmd.Process.Pid }

// stop sends SIGTERM and returns how long the process took to end. One that takes longer than it may fails the test and is killed.
func (d *daemon) stop(t testing.TB) time.Duration {
	t.Helper()
	if d.cmd == nil || d.dead() {
		return 0
	}
	begin := time.Now()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(stopBound):
		t.Errorf("switchd still runs %v after SIGTERM", stopBound)
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
	return time.Since(begin)
}

// threads counts the process's threads.
func (d *daemon) threads() int {
	list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", d.pid()))
	return len(list)
}

// cpu is the processor time that the process has used, in steps of 10 ms.
func (d *daemon) cpu(t testing.TB) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.pid()))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// waited is how long the process's threads were ready to run and had no processor: much of it, and the machine was too busy for a measurement.
func (d *daemon) waited() (sum time.Duration) {
	list, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", d.pid()))
	for _, path := range list {
		if data, err := os.ReadFile(path); err == nil {
			if fields := strings.Fields(string(data)); len(fields) > 1 {
				n, _ := strconv.ParseInt(fields[1], 10, 64)
				sum += time.Duration(n)
			}
		}
	}
	return sum
}

// status is a value of /proc/PID/status in KiB, such as VmRSS.
func (d *daemon) status(t testing.TB, key string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "\n"+key+":")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// Users. Budgets are kept per user: most attackers are another one than the innocent.
const (
	admin    = 0
	innocent = 64055
	hostile  = 65534
)

// as runs something as another user, in this thread only. Who connects to a Unix socket is whoever calls connect(2).
func as(uid int, do func()) {
	if uid == 0 {
		do()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set := func(call, id uintptr) {
		if _, _, errno := unix.RawSyscall(call, ^uintptr(0), id, ^uintptr(0)); errno != 0 {
			panic(fmt.Sprintf("becoming user %d: %v", uid, errno))
		}
	}
	set(unix.SYS_SETRESUID, uintptr(uid))
	defer set(unix.SYS_SETRESUID, 0)
	do()
}

func connect(uid int, path string) (conn *net.UnixConn, err error) {
	as(uid, func() { conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"}) })
	return conn, err
}

// dial connects a front-end of a user's to a socket and starts its rings.
func dial(uid int, c frontend.Config) (*frontend.Device, error) {
	conn, err := connect(uid, c.Socket)
	if err != nil {
		return nil, err
	}
	return frontend.Attach(conn, c)
}

func eventually(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
