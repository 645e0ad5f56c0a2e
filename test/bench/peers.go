package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peer is a switch under test. Its command line has {sock0}, {sock1}, … for the sockets that it shall make, {core} for its core.
type peer struct {
	name string
	// start starts it for a number of ports, its forwarding thread on a core.
	start func(ctx context.Context, dir string, ports, core int) (*process, error)
	// maxPorts is how many ports it connects.
	maxPorts int
	// interruptsOnly is the kernel: it has no rings to poll.
	interruptsOnly bool
	// limit is no switch: what it reaches, none that copies can exceed. It has no rings, thus only the generator's own kinds of work.
	limit bool
}

// takes tells whether a kind of work is one for this peer.
func (p peer) takes(w work) bool {
	switch {
	case p.interruptsOnly:
		return w.Name == "interrupt" && w.Ports <= p.maxPorts
	case p.limit:
		return (w.Name == "W2" || w.Name == "W3") && w.Ports == 2 && w.Addresses <= 1
	}
	return w.Ports <= p.maxPorts
}

// process is a running switch.
type process struct {
	cmd     *exec.Cmd
	pid     int // of the process that forwards
	sockets []string
	log     string
	cleanup []func()
	// namespace tells that the ends are taps in the process's network namespace.
	namespace bool
	// bare tells that there is no process: the generator itself copies.
	bare bool
}

func (p *process) stop() {
	if p.cmd != nil && p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = p.cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = p.cmd.Process.Kill()
			<-done
		}
	}
	for i := len(p.cleanup) - 1; i >= 0; i-- {
		p.cleanup[i]()
	}
}

// launch starts a command and waits for its sockets.
func launch(dir string, sockets []string, argv ...string) (*process, error) {
	log := filepath.Join(dir, filepath.Base(argv[0])+".log")
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, pid: cmd.Process.Pid, sockets: sockets, log: log}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if allThere(sockets) {
			return p, nil
		}
		if time.Now().After(end) || syscall.Kill(p.pid, 0) != nil {
			p.stop()
			text, _ := os.ReadFile(log)
			return nil, fmt.Errorf("%s made no sockets:\n%s", argv[0], tail(string(text), 15))
		}
	}
}

func allThere(sockets []string) bool {
	for _, s := range sockets {
		if info, err := os.Stat(s); err != nil || info.Mode()&os.ModeSocket == 0 {
			return false
		}
	}
	return true
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func socketNames(dir string, ports int) (list []string) {
	for i := range ports {
		list = append(list, filepath.Join(dir, fmt.Sprintf("s%d", i)))
	}
	return list
}

// switchd is what is measured: with everything on, as a user would start it for speed.
func switchd(bin string) peer {
	return peer{name: "switchd", maxPorts: 64, start: func(_ context.Context, dir string, ports, core int) (*process, error) {
		sockets := socketNames(dir, ports)
		argv := []string{
			bin, "--poll", pollMode, "--control", filepath.Join(dir, "control"), "--socket-dir", filepath.Join(dir, "ports"),
			"--state-dir", filepath.Join(dir, "state"), "--mac-limit", "4096", "--mergeable", "1",
		}
		if core >= 0 {
			argv = append(argv, "--cores", strconv.Itoa(core))
		}
		for _, s := range sockets {
			argv = append(argv, "--socket-file", s)
		}
		return launch(dir, sockets, argv...)
	}}
}

// pollMode is switchd's; the interrupt workload lets it sleep.
var pollMode = "busy"

// pipe is DPDK's own vhost library as fast as it goes: testpmd that passes frames between two ports without looking at them.
func pipe() peer {
	return peer{name: "dpdk-pipe", maxPorts: 2, start: func(_ context.Context, dir string, ports, core int) (*process, error) {
		sockets := socketNames(dir, ports)
		argv := []string{
			"dpdk-testpmd", "--lcores", fmt.Sprintf("0@%d,1@%d", other(core), core), "--main-lcore", "0", "--no-huge", "-m", "512", "--no-pci", "--no-telemetry",
			"--file-prefix", fmt.Sprintf("pipe%d", os.Getpid()),
		}
		for i, s := range sockets {
			argv = append(argv, "--vdev", fmt.Sprintf("net_vhost%d,iface=%s", i, s))
		}
		argv = append(argv, "--", "--forward-mode=io", "--auto-start", "--nb-cores=1", "--total-num-mbufs=16384", "--mbuf-size=9728", "--stats-period=60")
		return launch(dir, sockets, argv...)
	}}
}

// bridge is the kernel's: a tap for each guest, in a network namespace that ends with its process.
func bridge() peer {
	return peer{name: "bridge", maxPorts: 2, interruptsOnly: true, start: func(context.Context, string, int, int) (*process, error) {
		const script = "ip link add br0 type bridge forward_delay 0 && ip link set br0 up && " +
			"for t in t0 t1; do ip tuntap add $t mode tap && ip link set $t master br0 up || exit 1; done; echo ready; exec sleep 3600"
		cmd := exec.Command("unshare", "--net", "sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		cmd.Stderr = cmd.Stdout
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		p := &process{cmd: cmd, pid: cmd.Process.Pid, sockets: []string{"t0", "t1"}, namespace: true}
		line := make([]byte, 256)
		if n, _ := out.Read(line); !strings.HasPrefix(string(line[:n]), "ready") {
			p.stop()
			return nil, fmt.Errorf("making a bridge: %s", line[:n])
		}
		return p, nil
	}}
}

// memcpy is the limit of all switches that copy: frames go between the same two cores without rings, headers or a decision. What it reaches is
// the machine's doing.
func memcpy() peer {
	return peer{name: "memcpy", maxPorts: 2, limit: true, start: func(context.Context, string, int, int) (*process, error) { return &process{bare: true}, nil }}
}

// other is a core that is not the given one.
func other(core int) int {
	if core == 0 {
		return 1
	}
	return 0
}

// ovs is Open vSwitch with its user-space data path. It needs a database of its own.
func ovs() peer {
	return peer{name: "ovs-dpdk", maxPorts: 64, start: startOVS}
}

func startOVS(ctx context.Context, dir string, ports, core int) (*process, error) {
	vswitchd, err := findAny("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk", "ovs-vswitchd")
	if err != nil {
		return nil, err
	}
	giveBack, err := hugepages(300)
	if err != nil {
		return nil, err
	}
	p, err := startOVSWith(ctx, vswitchd, dir, ports, core)
	if err != nil {
		giveBack()
		return nil, err
	}
	p.cleanup = append([]func(){giveBack}, p.cleanup...)
	return p, nil
}

// hugepages makes sure that so many pages of 2 MiB are free, and gives the way back.
func hugepages(want int) (giveBack func(), err error) {
	const dir = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
	read := func(name string) int {
		data, _ := os.ReadFile(dir + name)
		n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
		return n
	}
	set := func(n int) error { return os.WriteFile(dir+"nr_hugepages", []byte(strconv.Itoa(n)), 0o644) }
	total, free := read("nr_hugepages"), read("free_hugepages")
	if free >= want {
		return func() {}, nil
	}
	for range 3 { // the kernel gives fewer without a word where memory is in pieces
		if err := set(total + want - free); err != nil {
			return nil, err
		}
		if read("free_hugepages") >= want {
			break
		}
		_ = os.WriteFile("/proc/sys/vm/compact_memory", []byte("1"), 0o200)
	}
	if got := read("free_hugepages"); got < want {
		_ = set(total)
		return nil, fmt.Errorf("only %d of %d hugepages of 2 MiB can be had", got, want)
	}
	return func() { _ = set(total) }, nil
}

func startOVSWith(ctx context.Context, vswitchd, dir string, ports, core int) (*process, error) {
	db, schema := filepath.Join(dir, "conf.db"), "/usr/share/openvswitch/vswitch.ovsschema"
	sock := "unix:" + filepath.Join(dir, "db.sock")
	run := func(argv ...string) error {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "OVS_RUNDIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(out))
		}
		return nil
	}
	vsctl := func(args ...string) error {
		return run(append([]string{"ovs-vsctl", "--db=" + sock, "--timeout=20", "--no-wait"}, args...)...)
	}
	err := run("ovsdb-tool", "create", db, schema)
	if err != nil {
		return nil, err
	}
	server := exec.Command("ovsdb-server", db, "--remote=p"+sock, "--unixctl="+filepath.Join(dir, "dbctl"))
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		return nil, err
	}
	stopServer := func() { _ = server.Process.Kill(); _ = server.Wait() }
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("unix", filepath.Join(dir, "db.sock")); err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			stopServer()
			return nil, errors.New("ovsdb-server does not answer")
		}
	}
	sockets := socketNames(dir, ports)
	err = errors.Join(vsctl("init"), vsctl("set", "Open_vSwitch", ".", "other_config:dpdk-init=true", "other_config:dpdk-extra=--no-pci", "other_config:dpdk-socket-mem=512",
		"other_config:vhost-sock-dir=.", fmt.Sprintf("other_config:dpdk-lcore-mask=%#x", 1<<other(core)), fmt.Sprintf("other_config:pmd-cpu-mask=%#x", 1<<core)),
		vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"))
	for i := range ports {
		err = errors.Join(err, vsctl("add-port", "br0", fmt.Sprintf("s%d", i), "--", "set", "Interface", fmt.Sprintf("s%d", i), "type=dpdkvhostuser"))
	}
	if err != nil {
		stopServer()
		return nil, err
	}
	if err := os.Setenv("OVS_RUNDIR", dir); err != nil {
		return nil, err
	}
	p, err := launch(dir, sockets, vswitchd, sock, "--unixctl="+filepath.Join(dir, "vsctl"), "--pidfile="+filepath.Join(dir, "pid"), "-vconsole:warn")
	if err != nil {
		stopServer()
		return nil, err
	}
	p.cleanup = append(p.cleanup, stopServer)
	return p, nil
}

// findAny gives the first program that is there.
func findAny(names ...string) (string, error) {
	for _, n := range names {
		if path, err := exec.LookPath(n); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("none of %s is installed", strings.Join(names, ", "))
}

// custom is a switch that the user names: NAME=command with {sock0} {sock1} … {core} {dir}.
func custom(text string) (peer, error) {
	name, command, ok := strings.Cut(text, "=")
	if !ok || name == "" || !strings.Contains(command, "{sock0}") || !strings.Contains(command, "{sock1}") {
		return peer{}, fmt.Errorf("--peer %q: want NAME='command with {sock0} {sock1}'", text)
	}
	return peer{name: name, maxPorts: strings.Count(command, "{sock"), start: func(_ context.Context, dir string, ports, core int) (*process, error) {
		sockets := socketNames(dir, ports)
		pairs := []string{"{core}", strconv.Itoa(core), "{dir}", dir}
		for i, s := range sockets {
			pairs = append(pairs, fmt.Sprintf("{sock%d}", i), s)
		}
		return launch(dir, sockets, "sh", "-c", "exec "+strings.NewReplacer(pairs...).Replace(command))
	}}, nil
}
