// Package cli tests what a user types: help, messages, exit codes, and both programs together, as scripts in testdata.
package cli

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// nobody runs the programs where the test has root: so they use the user's directories, and never those of the machine's own switchd.
const nobody = 65534

func TestScripts(t *testing.T) {
	// Not t.TempDir: the other user must be able to enter, and a socket's path must be short.
	root, err := os.MkdirTemp("", "cli")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	bin, work := filepath.Join(root, "bin"), filepath.Join(root, "w")
	for _, dir := range []string{root, bin, work} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "vhostkit/cmd/...")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata", WorkdirRoot: work, Deadline: time.Now().Add(2 * time.Minute),
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+":"+e.Getenv("PATH"))
			e.Setenv("XDG_RUNTIME_DIR", filepath.Join(e.WorkDir, "run"))
			e.Setenv("CONTROL", filepath.Join(e.WorkDir, "run", "vhostkit", "switchd.sock"))
			e.Values[programsKey{}] = map[string]*running{}
			return os.Chmod(e.WorkDir, 0o777)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "start": start, "answers": answers, "signal": signal},
	})
}

// command is a program of the script, in its directory and environment, without root.
func command(ts *testscript.TestScript, args []string) *exec.Cmd {
	path := args[0]
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if p := filepath.Join(dir, args[0]); !strings.Contains(args[0], "/") {
			if _, err := os.Stat(p); err == nil {
				path = p
				break
			}
		}
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "VHOSTKIT_CONTROL", "QEMU_WRAP_CONFIG",
		"QEMU_WRAP_EMUL_PATH", "QEMU_WRAP_MODE", "QEMU_WRAP_QEMU_SOCKET"} {
		if v := ts.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// exits CODE PROGRAM ARGS... runs a program and wants this exit code; its output is for stdout, stderr and cmp.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	cmd := command(ts, args[1:])
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	ts.Check(cmd.Start())
	hung := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	if !hung.Stop() {
		ts.Fatalf("%v hangs", args[1:])
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v: %v", args[1:], err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("%v: exit code %d, want %d", args[1:], got, want)
	}
}

// running is a program that start started.
type running struct {
	cmd  *exec.Cmd
	done chan error
}

// start NAME PROGRAM ARGS... runs a program beside the script. Its output goes to the files NAME.out and NAME.err.
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM ARGS...")
	}
	cmd := command(ts, args[1:])
	var err error
	cmd.Stdout, err = os.Create(ts.MkAbs(args[0] + ".out"))
	ts.Check(err)
	cmd.Stderr, err = os.Create(ts.MkAbs(args[0] + ".err"))
	ts.Check(err)
	ts.Check(cmd.Start())
	r := &running{cmd, make(chan error, 1)}
	go func() { r.done <- cmd.Wait() }()
	ts.Defer(func() { _ = cmd.Process.Kill() })
	programs(ts)[args[0]] = r
}

// signal NAME SIGNAL CODE sends INT, TERM or KILL and wants the program to end with this exit code (-1: by the signal).
func signal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: signal NAME SIGNAL CODE")
	}
	number, ok := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[1]]
	r := programs(ts)[args[0]]
	if !ok || r == nil {
		ts.Fatalf("signal %s, program %s: unknown", args[1], args[0])
	}
	ts.Check(r.cmd.Process.Signal(number))
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		ts.Fatalf("%s does not end by SIG%s", args[0], args[1])
	}
	if got := strconv.Itoa(r.cmd.ProcessState.ExitCode()); got != args[2] {
		log, _ := os.ReadFile(ts.MkAbs(args[0] + ".err"))
		ts.Fatalf("%s: exit code %s, want %s\n%s", args[0], got, args[2], log)
	}
}

// answers SOCKET waits until somebody accepts there; ! answers wants nobody to.
func answers(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: answers SOCKET")
	}
	deadline := time.Now().Add(15 * time.Second)
	for {
		c, err := net.DialTimeout("unix", ts.MkAbs(args[0]), time.Second)
		if err == nil {
			c.Close()
		}
		if (err == nil) != neg {
			return
		}
		if neg || time.Now().After(deadline) {
			ts.Fatalf("%s: answered=%v, error %v", args[0], err == nil, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// programsKey finds the running programs of a script.
type programsKey struct{}

func programs(ts *testscript.TestScript) map[string]*running {
	return ts.Value(programsKey{}).(map[string]*running)
}
