package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// daemon is a running switchd with what it has printed so far.
type daemon struct {
	socket  string
	control string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when err is valid
	err     error

	mu    sync.Mutex
	lines []string
}

// startDaemon starts switchd with its tap interface and waits until guests can connect.
func startDaemon(ctx context.Context, dir, program string) (*daemon, error) {
	d := &daemon{
		socket:  filepath.Join(dir, "vhost.sock"),
		control: filepath.Join(dir, "control.sock"),
		ended:   make(chan struct{}),
	}
	d.cmd = exec.Command(program, "--socket-file", d.socket, "--uplink", "tap:"+tapName, "--vm2vm", "1",
		"--stats", "0", "--control", d.control, "--state-dir", filepath.Join(dir, "state"))
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A child of its that keeps its output open must not hold the demo.
	d.cmd.WaitDelay = 2 * time.Second
	r, w := io.Pipe()
	d.cmd.Stdout, d.cmd.Stderr = w, w
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go d.collect(r)
	go func() {
		d.err = d.cmd.Wait()
		_ = w.Close()
		close(d.ended)
	}()
	return d, d.ready(ctx)
}

func (d *daemon) collect(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		d.mu.Lock()
		d.lines = append(d.lines, lines.Text())
		d.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r)
}

// ready waits for the guests' socket, the control socket and the tap interface.
func (d *daemon) ready(ctx context.Context) error {
	missing := "the guests' socket"
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, tapErr := net.InterfaceByName(tapName)
		switch {
		case !answers(d.control):
			missing = "its control socket " + d.control
		case !exists(d.socket):
			missing = "the guests' socket " + d.socket
		case tapErr != nil:
			missing = "the tap interface " + tapName
		default:
			return nil
		}
		select {
		case <-d.ended:
			return fmt.Errorf("it ended at once (%v)", d.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it runs, but %s is not there", missing)
		}
	}
}

func answers(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func exists(path string) bool {
	matches, err := filepath.Glob(path)
	return err == nil && len(matches) == 1
}

func (d *daemon) snapshot() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.lines...)
}

func (d *daemon) tail(n int) string {
	lines := d.snapshot()
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// dataLines is what operators of DPDK's vhost sample look for (docs/dpdk-compat.md, 3).
func (d *daemon) dataLines() string {
	var found []string
	for _, l := range d.snapshot() {
		if strings.HasPrefix(l, "DATA:") {
			found = append(found, l)
		}
	}
	return strings.Join(found, "\n")
}

var registered = regexp.MustCompile(`^DATA: \(\d+\) MAC_ADDRESS ([0-9a-f:]{17}) and VLAN_TAG (\d+) registered`)

// vlanOf waits for the DATA line of a guest's address and returns the VLAN in it.
func (d *daemon) vlanOf(ctx context.Context, mac string) (int, error) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		for _, l := range d.snapshot() {
			if m := registered.FindStringSubmatch(l); m != nil && m[1] == mac {
				return strconv.Atoi(m[2])
			}
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("switchd has printed no DATA line for %s", mac)
		}
	}
}

func (d *daemon) vhostctl(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append([]string{"--control", d.control}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("vhostctl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// stop asks switchd to end and reports if it does not end well.
func (d *daemon) stop(ctx context.Context) error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-ctx.Done():
		_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
		<-d.ended
		return fmt.Errorf("switchd did not end within the time: %w", ctx.Err())
	}
	if d.err != nil {
		return fmt.Errorf("switchd: %w", d.err)
	}
	return nil
}
