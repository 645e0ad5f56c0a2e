package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/test/guest/proto"
	"vhostkit/test/internal/proc"
)

// Guest is a running guest. Its methods may be called from several goroutines.
type Guest struct {
	cfg     Config
	dir     string
	ownDir  bool
	console string // where it is not dir's: the guest of somebody else
	accel   string
	cmd     *exec.Cmd     // nil for the guest of somebody else
	ended   chan struct{} // closed when QEMU has ended and waitErr is valid
	waitErr error
	client  *client // nil with Config.Firmware
	conn    net.Conn
	started time.Time
	booted  time.Duration
	log     *slog.Logger
}

// Start boots a guest and waits until its agent answers. The guest lives until Stop or Kill, until QEMU ends, or
// until this process ends; ctx is only for the start.
func Start(ctx context.Context, cfg Config) (*Guest, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Guest{cfg: cfg, dir: cfg.Dir, ended: make(chan struct{}), log: cfg.Logger.With("guest", cfg.Name)}
	if g.dir == "" {
		g.ownDir = true
		if g.dir, err = os.MkdirTemp("", "vhostkit-guest-"); err != nil {
			return nil, err
		}
	} else if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.BootTimeout, fmt.Errorf("not booted after %v", cfg.BootTimeout))
	defer cancel()
	if err := g.launch(ctx); err != nil {
		g.cleanUp()
		return nil, fmt.Errorf("start guest %s: %w", cfg.Name, err)
	}
	if cfg.Firmware {
		return g, nil
	}
	if _, _, err := g.client.call(ctx, proto.Request{Op: proto.OpHello}); err != nil {
		err = g.explain(fmt.Errorf("start guest %s: %w", cfg.Name, err))
		g.Kill()
		return nil, err
	}
	g.booted = time.Since(g.started)
	g.log.Info("guest booted", "accel", g.accel, "seconds", g.booted.Seconds(), "pid", g.PID())
	return g, nil
}

// launch starts QEMU.
func (g *Guest) launch(ctx context.Context) error {
	qemu, err := g.cfg.QEMU, error(nil)
	if qemu == "" {
		qemu, err = FindQEMU()
	}
	if err != nil {
		return err
	}
	m := machine{console: g.consolePath(), initramfs: filepath.Join(g.dir, "initramfs"), accel: g.cfg.Accel}
	if m.version, err = QEMUVersion(ctx, qemu); err != nil {
		return err
	}
	kernel, err := FindKernel()
	if err != nil {
		return err
	}
	if m.accel == "" {
		m.accel = Accelerator(ctx, qemu, g.cfg.CPUModel, kernel)
	}
	g.accel = m.accel
	var extra []*os.File
	if !g.cfg.Firmware {
		m.kernel = unpackKernel(kernel.Image)
		if err := g.makeInitramfs(ctx, m.initramfs, kernel); err != nil {
			return err
		}
		theirs, err := g.makePort()
		if err != nil {
			return err
		}
		defer theirs.Close()
		extra = append(extra, theirs)
		m.agentFD = 3
	}
	args, err := arguments(g.cfg, m)
	if err != nil {
		return err
	}
	return g.exec(qemu, args, extra)
}

func (g *Guest) makeInitramfs(ctx context.Context, path string, k Kernel) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(writeInitramfs(ctx, f, g.cfg, k), f.Close())
}

// makePort makes the two ends of the agent's port and returns QEMU's. A socket pair needs no path, whose length is
// limited, and nobody else can connect to it.
func (g *Guest) makePort() (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("the agent's socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "agent"), os.NewFile(uintptr(fds[1]), "agent")
	defer ours.Close()
	if g.conn, err = net.FileConn(ours); err != nil {
		theirs.Close()
		return nil, err
	}
	g.client = newClient(g.conn)
	return theirs, nil
}

func (g *Guest) exec(qemu string, args []string, extra []*os.File) error {
	messages, err := os.Create(g.messagesPath())
	if err != nil {
		return err
	}
	defer messages.Close()
	g.cmd = exec.Command(qemu, args...)
	g.cmd.Stdout, g.cmd.Stderr = messages, messages
	g.cmd.ExtraFiles = extra
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	g.started = time.Now()
	g.log.Debug("starting QEMU", "argv", g.cmd.Args)
	proc.Show(os.Stderr, "guest "+g.cfg.Name, g.dir, g.cmd.Args)
	if err := g.cmd.Start(); err != nil {
		return err
	}
	go func() {
		g.waitErr = g.cmd.Wait()
		// QEMU may have died without its last words reaching the client.
		if g.conn != nil {
			_ = g.conn.Close()
		}
		close(g.ended)
	}()
	return nil
}

func (g *Guest) consolePath() string  { return filepath.Join(g.dir, "console.log") }
func (g *Guest) messagesPath() string { return filepath.Join(g.dir, "qemu.log") }

// Name is the Config's.
func (g *Guest) Name() string { return g.cfg.Name }

// PID is the process number of QEMU.
func (g *Guest) PID() int {
	if g.cmd == nil {
		return 0
	}
	return g.cmd.Process.Pid
}

// Accel is "kvm" or "tcg".
func (g *Guest) Accel() string { return g.accel }

// BootTime is how long it took from the start of QEMU to the agent's first answer.
func (g *Guest) BootTime() time.Duration { return g.booted }

// Done is closed when QEMU has ended.
func (g *Guest) Done() <-chan struct{} { return g.ended }

// Console is what the guest's kernel and firmware have printed so far.
func (g *Guest) Console() string {
	path := g.console
	if path == "" {
		path = g.consolePath()
	}
	text, _ := os.ReadFile(path)
	return string(text)
}

// Messages is what QEMU itself has printed so far.
func (g *Guest) Messages() string {
	text, _ := os.ReadFile(g.messagesPath())
	return string(text)
}

// Kill ends QEMU at once, as kill -9 does, and removes a temporary directory. It may be called more than once.
func (g *Guest) Kill() {
	if g.cmd == nil {
		_ = g.conn.Close()
		return
	}
	_ = g.cmd.Process.Kill()
	select {
	case <-g.ended:
	case <-time.After(10 * time.Second):
		g.log.Error("QEMU does not die, it is left behind", "pid", g.PID())
	}
	g.cleanUp()
}

// Stop asks QEMU to end, so that it says goodbye to the switch, and kills it if it has not done so when ctx ends or
// after ten seconds.
func (g *Guest) Stop(ctx context.Context) error {
	if g.cmd == nil {
		return g.conn.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case <-g.ended:
	case <-ctx.Done():
		err = fmt.Errorf("stop guest %s: QEMU does not end: %w", g.cfg.Name, ctx.Err())
	}
	g.Kill()
	return err
}

func (g *Guest) cleanUp() {
	if g.conn != nil {
		_ = g.conn.Close()
	}
	if proc.Keep() {
		return
	}
	if g.ownDir {
		_ = os.RemoveAll(g.dir)
	} else {
		_ = os.Remove(filepath.Join(g.dir, "initramfs"))
	}
}

// explain adds to an error what QEMU and the guest's console said last.
func (g *Guest) explain(err error) error {
	select {
	case <-g.ended:
		err = fmt.Errorf("%w; QEMU ended (%v)", err, g.waitErr)
	case <-time.After(200 * time.Millisecond):
	}
	if text := lastLines(g.Messages(), 10); text != "" {
		err = fmt.Errorf("%w\nQEMU said:\n%s", err, text)
	}
	if text := lastLines(g.Console(), 20); text != "" {
		err = fmt.Errorf("%w\nthe guest's console:\n%s", err, text)
	}
	return err
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
