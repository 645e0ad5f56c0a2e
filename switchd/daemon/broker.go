package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/config"
	"vhostkit/switchd/control"
	"vhostkit/switchd/unixsocket"
)

// broker answers QEMU's processes: no more than a port for themselves and the devices that the configuration names. It has nothing else of the
// daemon, because such a process may have been taken over by its guest.
type broker struct {
	plugs    plugger
	about    control.VersionInfo
	openable func() []string // paths of devices that may be opened
	logger   *slog.Logger
}

// plugger finds or makes a named port for a user.
type plugger interface {
	plug(ctx context.Context, name string, caller control.Peer) (control.Port, error)
}

// newBroker gives the broker what it needs.
func (d *Daemon) newBroker() broker {
	return broker{plugs: d, about: d.Version(), logger: d.log,
		openable: func() []string { return slices.Concat(d.config.CUSEPaths(), *d.devices.Load()) }}
}

// Version tells what runs.
func (b broker) Version() control.VersionInfo { return b.about }

// Plug finds or makes a named port for the caller's user.
func (b broker) Plug(ctx context.Context, name string, caller control.Peer) (control.Port, error) {
	return b.plugs.plug(ctx, name, caller)
}

// serveBroker opens the socket for QEMU processes. A group that this machine does not have is no reason not to serve the others.
func (d *Daemon) serveBroker(ctx context.Context) error {
	path, group := config.QEMUSocket(d.config), d.config.QEMUGroup
	if path == "none" {
		return nil
	}
	if err := unixsocket.MakeDirectory(filepath.Dir(path)); err != nil {
		return fmt.Errorf("directory of the socket for QEMU: %w", err)
	}
	l, err := unixsocket.Listen(path, unixsocket.Access{Group: group})
	if err != nil && group != "" && !errors.Is(err, unixsocket.ErrInUse) { // no such group here, or no right to give files to it
		d.log.Info("socket for QEMU belongs to switchd's own group", "socket", path, "wanted", group, "option", "--qemu-group")
		l, err = unixsocket.Listen(path, unixsocket.Access{})
	}
	if err != nil {
		return err
	}
	d.answer(ctx, control.NewBrokerServer(l, d.newBroker(), d.budget, d.log))
	return nil
}

// plug finds or makes a named port for the caller's user.
func (d *Daemon) plug(ctx context.Context, name string, caller control.Peer) (control.Port, error) {
	for {
		d.mu.Lock()
		n := d.named[name]
		d.mu.Unlock()
		if n == nil {
			p, err := d.addPort(namedPort{Name: name, UID: &caller.UID, GID: &caller.GID, Asked: &caller.UID})
			if errors.Is(err, control.ErrExists) {
				continue // another one was faster
			}
			return p, err
		}
		if !n.mayUse(caller) {
			return control.Port{}, fmt.Errorf("%w: port %q belongs to another user", control.ErrForbidden, name)
		}
		select {
		case <-n.ready:
		case <-ctx.Done():
			return control.Port{}, fmt.Errorf("%w: port %q is just being made", control.ErrBusy, name)
		}
		d.mu.Lock()
		there := d.named[name] == n
		if there {
			n.since = time.Now() // not to be given up before its QEMU has had time to connect
		}
		d.mu.Unlock()
		if there {
			return d.portByName(name)
		}
	}
}

// mayUse tells whether the port was made for this user, or by one who left it to the socket's mode who may connect.
func (n namedPort) mayUse(caller control.Peer) bool {
	return caller.UID == 0 || n.UID == nil || *n.UID == caller.UID
}

// OpenDevice opens a character device that the configuration names.
func (b broker) OpenDevice(_ context.Context, path string, caller control.Peer) (*os.File, error) {
	known := b.openable()
	if !slices.Contains(known, path) {
		return nil, fmt.Errorf("%w: device %q; switchd hands out %q (options --backend and --device)", control.ErrForbidden, path, known)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: device %s: is the module loaded, and the backend that makes it running?", control.ErrNotFound, path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening device %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		f.Close()
		return nil, fmt.Errorf("%w: %s is not a character device", control.ErrForbidden, path)
	}
	b.logger.Info("device handed over", "device", path, "pid", caller.PID, "uid", caller.UID)
	return f, nil
}
