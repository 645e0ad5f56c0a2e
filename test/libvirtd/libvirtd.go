// Package libvirtd runs a real libvirtd for tests: in mount, process and network namespaces of its own, with empty directories in the
// places of libvirt's, so that it neither touches nor sees a libvirt of the machine. QEMU runs as the user that the distribution gives it.
// Everything ends with the namespaces: processes, mounts, interfaces and files.
package libvirtd

import (
	"bytes"
	"context"
	_ "embed" // init.sh
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"vhostkit/test/guest"
)

//go:embed init.sh
var initScript string

// startPatience is how long libvirtd may take until it accepts connections, stopPatience until everything has ended.
const (
	startPatience = 60 * time.Second
	stopPatience  = 20 * time.Second
)

// Rig is a running libvirtd.
type Rig struct {
	// Dir is the rig's directory, at the same place inside and outside. QEMU's user may read it.
	Dir string

	cmd       *exec.Cmd // unshare
	ended     chan struct{}
	init      int // its first process, as seen from outside
	qemu      string
	accel     string
	version   guest.Version
	files     guest.BootFiles
	listeners map[string]net.Listener // of each domain's agent
}

// Start starts one; Close ends it. It ends with this process, too. Needs root.
func Start(ctx context.Context) (*Rig, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("libvirtd for tests needs root")
	}
	for _, tool := range []string{"libvirtd", "virtlogd", "virsh", "unshare", "nsenter"} {
		if _, err := find(tool); err != nil {
			return nil, fmt.Errorf("%w: test/setup/install.sh test installs it", err)
		}
	}
	dir, err := os.MkdirTemp("", "vhklv")
	if err != nil {
		return nil, err
	}
	r := &Rig{Dir: dir, listeners: map[string]net.Listener{}, ended: make(chan struct{})}
	if err := r.start(ctx); err != nil {
		err = fmt.Errorf("starting libvirtd: %w\n%s", err, r.Logs())
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// find looks also where daemons are and users' paths do not lead.
func find(tool string) (string, error) {
	path, err := exec.LookPath(tool)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, inner := exec.LookPath(filepath.Join(dir, tool)); inner == nil {
			return path, nil
		}
	}
	return "", err
}

func (r *Rig) start(ctx context.Context) error {
	if err := os.Chmod(r.Dir, 0o755); err != nil {
		return err
	}
	if err := r.prepareGuests(ctx); err != nil {
		return err
	}
	if err := r.unshare(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("not ready after %v", startPatience))
	defer cancel()
	for {
		if r.init == 0 {
			r.init = child(r.cmd.Process.Pid)
		}
		if r.init != 0 {
			conn, err := net.Dial("unix", r.Path("/run/libvirt/libvirt-sock"))
			if err == nil {
				return conn.Close()
			}
		}
		select {
		case <-r.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// unshare starts init.sh in new namespaces.
func (r *Rig) unshare() error {
	script := filepath.Join(r.Dir, "init.sh")
	if err := os.WriteFile(script, []byte(initScript), 0o644); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(r.Dir, "init.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--propagation", "private", "--",
		"sh", script, r.Dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.cmd = cmd
	go func() {
		_ = cmd.Wait()
		close(r.ended)
	}()
	return nil
}

// child is the only child of a process, 0 while there is none.
func child(parent int) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// The name in parentheses may contain anything; behind it come the state and the parent (proc(5)).
		var pid, ppid int
		var state string
		i := bytes.LastIndexByte(data, ')')
		if _, err := fmt.Sscan(string(data), &pid); err != nil || i < 0 {
			continue
		}
		if _, err := fmt.Sscan(string(data[i+1:]), &state, &ppid); err == nil && ppid == parent {
			return pid
		}
	}
	return 0
}

// Path is where a file of the rig is seen from outside.
func (r *Rig) Path(inside string) string { return fmt.Sprintf("/proc/%d/root%s", r.init, inside) }

// Command is a command that will run inside. A signal to it does not arrive there: see Kill.
func (r *Rig) Command(ctx context.Context, argv ...string) *exec.Cmd {
	args := append([]string{"--target", fmt.Sprint(r.init), "--mount", "--pid", "--net", "--"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = append(os.Environ(), "LIBVIRT_DEFAULT_URI=qemu:///system", "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Run runs a command inside that must succeed, and returns its standard output.
func (r *Rig) Run(ctx context.Context, argv ...string) (string, error) {
	cmd := r.Command(ctx, argv...)
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(messages.String()))
	}
	return out.String(), nil
}

// Virsh is Run of virsh.
func (r *Rig) Virsh(ctx context.Context, args ...string) (string, error) {
	return r.Run(ctx, append([]string{"virsh", "--quiet"}, args...)...)
}

// Kill sends a signal, such as "KILL", to a process by its number inside.
func (r *Rig) Kill(ctx context.Context, signal string, pid int) error {
	_, err := r.Run(ctx, "kill", "-"+signal, fmt.Sprint(pid))
	return err
}

// Logs are the last words of the daemons and of each domain's QEMU.
func (r *Rig) Logs() string {
	files, _ := filepath.Glob(filepath.Join(r.Dir, "*.log"))
	if r.init != 0 {
		domains, _ := filepath.Glob(r.Path("/var/log/libvirt/qemu/*.log"))
		files = append(files, domains...)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if lines := strings.Split(strings.TrimSpace(string(text)), "\n"); err == nil && len(text) > 0 {
			fmt.Fprintf(&all, "== %s\n%s\n", filepath.Base(f), strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
	}
	return all.String()
}

// Close ends everything that runs inside and removes the directory.
func (r *Rig) Close() error {
	for _, l := range r.listeners {
		l.Close()
	}
	var err error
	if r.cmd != nil {
		// The kernel ends all processes of the namespace with its first one.
		_ = r.cmd.Process.Kill()
		select {
		case <-r.ended:
		case <-time.After(stopPatience):
			err = fmt.Errorf("the namespaces of libvirtd (process %d) do not end", r.cmd.Process.Pid)
		}
		if gone := r.waitGone(); err == nil {
			err = gone
		}
	}
	return errors.Join(err, os.RemoveAll(r.Dir))
}

// waitGone waits until the first process is gone, and with it all others.
func (r *Rig) waitGone() error {
	if r.init == 0 {
		return nil
	}
	for end := time.Now().Add(stopPatience); ; time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(r.init, 0); errors.Is(err, syscall.ESRCH) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes of libvirtd's namespace are left (first process %d)", r.init)
		}
	}
}
