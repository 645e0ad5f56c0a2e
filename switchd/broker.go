package switchd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/control"
	"vhostkit/switchd/unixsocket"
)

// maxAsked bounds the ports that QEMU processes may ask for: such a process may have been taken over by its guest.
const maxAsked = 1024

// broker answers QEMU's processes: no more than a port for themselves and the devices that the configuration names.
type broker struct{ *Daemon }

// serveBroker opens the socket for QEMU processes. A group that this machine does not have is no reason not to serve the others.
func (d *Daemon) serveBroker(ctx context.Context) error {
	path, group := QEMUSocket(d.config), d.config.QEMUGroup
	if path == "none" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
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
func (b broker) Plug(_ context.Context, name string, caller control.Peer) (control.Port, error) {
	b.persistMu.Lock()
	defer b.persistMu.Unlock()
	b.mu.Lock()
	n, exists := b.named[name]
	asked := 0
	for _, other := range b.named {
		if other.Asked != nil {
			asked++
		}
	}
	b.mu.Unlock()
	switch {
	case exists && !n.mayUse(caller):
		return control.Port{}, fmt.Errorf("%w: port %q belongs to another user", control.ErrForbidden, name)
	case exists:
		return b.portByName(name)
	case asked >= maxAsked:
		return control.Port{}, fmt.Errorf("%w: QEMU processes have asked for %d ports already; remove some with vhostctl port remove",
			control.ErrForbidden, asked)
	}
	return b.addPort(namedPort{Name: name, UID: &caller.UID, GID: &caller.GID, Asked: &caller.UID})
}

// mayUse tells whether the port was made for this user, or by one who left it to the socket's mode who may connect.
func (n namedPort) mayUse(caller control.Peer) bool {
	return caller.UID == 0 || n.UID == nil || *n.UID == caller.UID
}

// OpenDevice opens a character device that the configuration names.
func (b broker) OpenDevice(_ context.Context, path string, caller control.Peer) (*os.File, error) {
	known := slices.Concat(b.config.CUSEPaths(), b.config.Devices)
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
