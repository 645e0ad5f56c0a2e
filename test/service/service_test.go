// Package service tests switchd as a service manager sees it, and the units that it is started by.
package service

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vhostkit/switchd/control"
)

// tool demands a program: in CI its absence is an error.
func tool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v (test/setup/install.sh test)", err)
		}
		t.Skip(err)
	}
}

func build(t *testing.T, names ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range names {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, name), "vhostkit/cmd/"+name)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return dir
}

// log is what a program writes, to be read while it runs.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// manager stands for the service manager: the notification socket, and what was said on it.
type manager struct {
	conn *net.UnixConn
	said []string
}

func (m *manager) wait(t *testing.T, want string, limit time.Duration) {
	t.Helper()
	b := make([]byte, 4096)
	for end := time.Now().Add(limit); ; {
		if err := m.conn.SetReadDeadline(end); err != nil {
			t.Fatal(err)
		}
		n, err := m.conn.Read(b)
		if err != nil {
			t.Fatalf("the service manager did not hear %s within %v, only %q", want, limit, m.said)
		}
		m.said = append(m.said, string(b[:n]))
		if strings.Contains(string(b[:n]), want) {
			return
		}
	}
}

func TestServiceManager(t *testing.T) {
	bin, dir := build(t, "switchd"), t.TempDir()
	notify := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := &manager{conn: conn}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "control"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	config := filepath.Join(dir, "switchd.toml")
	write := func(text string) {
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("log-level = \"info\"\n")
	// As systemd does it: the descriptor is number 3, and LISTEN_PID is the process that execs the daemon.
	cmd := exec.Command("sh", "-c", fmt.Sprintf("LISTEN_PID=$$ exec %s/switchd --config %s --socket-file %s/vhost.sock --control %s/elsewhere/control "+
		"--socket-dir %s/ports --state-dir %s/state", bin, config, dir, dir, dir, dir))
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify, "WATCHDOG_USEC=900000", "LISTEN_FDS=1", "LISTEN_FDNAMES=control")
	cmd.ExtraFiles = []*os.File{file}
	out := &log{}
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	m.wait(t, "READY=1", 10*time.Second)
	// Ready means that ports can be served: the sockets are there, also the one that was handed over.
	if c, err := net.Dial("unix", filepath.Join(dir, "vhost.sock")); err != nil {
		t.Errorf("ready, and no guest can connect: %v", err)
	} else {
		c.Close()
	}
	if _, err := control.NewClient(filepath.Join(dir, "control")).Version(context.Background()); err != nil {
		t.Errorf("the control socket of the service manager is not served: %v", err)
	}
	m.wait(t, "WATCHDOG=1", 5*time.Second)
	m.wait(t, "WATCHDOG=1", 5*time.Second)

	write("log-level = \"debug\"\nvm2vm = 0\n")
	reload(t, cmd, out, `configuration reloaded.*log-level=debug`)
	if text := out.String(); !regexp.MustCompile(`restart required for this setting.*setting=vm2vm`).MatchString(text) {
		t.Errorf("nothing is said of what needs a restart:\n%s", text)
	}
	write("nonsense = 1\n")
	reload(t, cmd, out, `stays as it was.*unknown setting`)

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.wait(t, "STOPPING=1", 5*time.Second)
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, out)
	}
}

func reload(t *testing.T, cmd *exec.Cmd, out *log, want string) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !regexp.MustCompile(want).MatchString(out.String()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after SIGHUP the log lacks %s:\n%s", want, out)
		}
	}
}

// units copies the units, with the programs where they are here.
func units(t *testing.T) []string {
	t.Helper()
	bin, dir := build(t, "switchd", "vhostctl"), t.TempDir()
	files, err := filepath.Glob("../../systemd/*.*")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.IsDir() {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.Base(f))
		data = bytes.ReplaceAll(data, []byte("/usr/bin/vhostctl"), []byte(bin+"/vhostctl"))
		data = bytes.ReplaceAll(data, []byte("/usr/bin/switchd"), []byte(bin+"/switchd"))
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		list = append(list, name)
	}
	if len(list) < 3 {
		t.Fatalf("only %v", list)
	}
	return list
}

func TestUnitsAreClean(t *testing.T) {
	tool(t, "systemd-analyze")
	list := units(t)
	out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, list...)...).CombinedOutput()
	var ours []string
	for _, line := range strings.Split(string(out), "\n") {
		if strings.Contains(line, "switchd") || strings.Contains(line, "vhostkit") {
			ours = append(ours, line)
		}
	}
	if err != nil || len(ours) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, strings.Join(ours, "\n"))
	}
}

// TestExamplesAreClean: the unit with each of the drop-ins that administrators are to copy.
func TestExamplesAreClean(t *testing.T) {
	tool(t, "systemd-analyze")
	examples, err := filepath.Glob("../../systemd/examples/*.conf")
	if err != nil || len(examples) < 2 {
		t.Fatalf("examples %v, %v", examples, err)
	}
	verify := func(t *testing.T, text []byte) string {
		list := units(t)
		dir := filepath.Join(filepath.Dir(list[0]), "switchd.service.d")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("/usr/bin/vhostctl"), []byte(build(t, "vhostctl")+"/vhostctl"))
		if err := os.WriteFile(filepath.Join(dir, "example.conf"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, list...)...).CombinedOutput()
		var ours []string
		for _, line := range strings.Split(string(out), "\n") {
			if strings.Contains(line, "switchd") || strings.Contains(line, "vhostkit") || strings.Contains(line, "example.conf") {
				ours = append(ours, line)
			}
		}
		return strings.Join(ours, "\n")
	}
	for _, example := range examples {
		text, err := os.ReadFile(example)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, []byte("[Service]\n")) {
			t.Errorf("%s has no [Service]", example)
		}
		if complaints := verify(t, text); complaints != "" {
			t.Errorf("%s: %s", example, complaints)
		}
	}
	if verify(t, []byte("[Service]\nDevicePolicy=whatever\n")) == "" {
		t.Error("a wrong drop-in is not noticed: this test looks at nothing")
	}
}

// TestHardening: an exposure of at most 4.0 (of 10).
func TestHardening(t *testing.T) {
	tool(t, "systemd-analyze")
	for _, unit := range units(t) {
		if filepath.Base(unit) != "switchd.service" {
			continue
		}
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=40", "--no-pager", unit).CombinedOutput()
		level := regexp.MustCompile(`Overall exposure level.*`).Find(out)
		t.Logf("%s", level)
		if err != nil || len(level) == 0 {
			t.Errorf("systemd-analyze security: %v\n%s", err, out)
		}
	}
}
