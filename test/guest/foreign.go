package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"vhostkit/test/guest/proto"
)

// AgentPort is the name of the virtio-serial port on which a guest's agent answers.
const AgentPort = proto.Port

// BootFiles are what a guest boots that somebody else starts, such as libvirt.
type BootFiles struct {
	Kernel      string
	Initramfs   string
	CommandLine string
}

// WriteBootFiles copies the kernel to dir and makes an initramfs there, with the agent and these modules. Everyone may read them.
func WriteBootFiles(ctx context.Context, dir string, modules []string) (BootFiles, error) {
	f := BootFiles{Kernel: filepath.Join(dir, "vmlinux"), Initramfs: filepath.Join(dir, "initramfs"), CommandLine: kernelCommandLine(Config{})}
	kernel, err := FindKernel()
	if err != nil {
		return f, err
	}
	if err := copyFile(f.Kernel, unpackKernel(kernel.Image)); err != nil {
		return f, err
	}
	out, err := os.OpenFile(f.Initramfs, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return f, err
	}
	return f, errors.Join(writeInitramfs(ctx, out, Config{Modules: modules}, kernel), out.Close())
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// NeedsNoMSIX tells whether this version may crash with MSI-X vectors on a vhost-user device without KVM (see nicArguments).
func NeedsNoMSIX(v Version) bool { return !v.AtLeast(10, 0) }

// Connect takes over the conversation with the agent of a guest that somebody else has started, and waits until it answers. Kill ends the
// conversation only; PID is 0. console is the file that its serial port goes to.
func Connect(ctx context.Context, name string, conn net.Conn, console string) (*Guest, error) {
	cfg, err := Config{Name: name}.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Guest{
		cfg: cfg, conn: conn, client: newClient(conn), started: time.Now(), console: console, ended: make(chan struct{}), log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.BootTimeout, fmt.Errorf("not booted after %v", cfg.BootTimeout))
	defer cancel()
	if _, _, err := g.client.call(ctx, proto.Request{Op: proto.OpHello}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("guest %s: %w\nthe guest's console:\n%s", name, err, lastLines(g.Console(), 20))
	}
	g.booted = time.Since(g.started)
	return g, nil
}
