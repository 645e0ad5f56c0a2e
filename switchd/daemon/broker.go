package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/config"
	"vhostkit/switchd/control"
	"vhostkit/switchd/unixsocket"
)

// broker answers QEMU's processes: no more than a port for themselves and the devices that the configuration names.
type broker struct{ *Daemon }

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
	d.answer(ctx, control.NewBrokerServer(l, broker{d}, d.budget, d.log))
	return nil
}

// Plug finds or makes a named port for the caller's user.
func (b broker) Plug(ctx context.Context, name string, caller control.Peer) (control.Port, error) {
	for {
		b.mu.Lock()
		n := b.named[name]
		b.mu.Unlock()
		if n == nil {
			p, err := b.addPort(namedPort{Name: name, UID: &caller.UID, GID: &caller.GID, Asked: &caller.UID})
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
		b.mu.Lock()
		there := b.named[name] == n
		if there {
			n.since = time.Now() // not to be given up before its QEMU has had time to connect
		}
		b.mu.Unlock()
		if there {
			return b.portByName(name)
		}
	}
}

// mayUse tells whether the port was made for this user, or by one who left it to the socket's mode who may connect.
func (n namedPort) mayUse(caller control.Peer) bool {
	return caller.UID == 0 || n.UID == nil || *n.UID == caller.UID
}

// OpenDevice opens a character device that the configuration names.
func (b broker) OpenDevice(_ context.Context, path string, caller control.Peer) (*os.File, error) {
	known := slices.Concat(b.config.CUSEPaths(), *b.devices.Load())
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
	b.log.Info("device handed over", "device", path, "pid", caller.PID, "uid", caller.UID)
	return f, nil
}
