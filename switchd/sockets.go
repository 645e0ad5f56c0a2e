package switchd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"vhostkit/switchd/control"
	"vhostkit/switchd/unixsocket"
	"vhostkit/switchd/vhost/user"
)

// socket is a vhost-user socket that the daemon serves.
type socket struct {
	path, name string
	cancel     context.CancelFunc
	done       chan struct{}
}

// portName is what a named port may be called: it becomes a file name and part of a domain's XML, and must not be taken for a number.
var portName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,62}$`)

// namedPort is a port that is there also while nobody is connected. It persists.
type namedPort struct {
	Name string `json:"name"`
	// UID and GID own the socket; nil is the configuration's.
	UID *int `json:"uid,omitempty"`
	GID *int `json:"gid,omitempty"`
	// Asked is the user whose QEMU asked for the port; nil is the administrator.
	Asked *int `json:"asked,omitempty"`
}

func (d *Daemon) socketOf(name string) string { return filepath.Join(d.config.SocketDir, name+".sock") }

// openSocket serves a path, as a server or in client mode; the port's name is empty for shared sockets.
func (d *Daemon) openSocket(path string, p namedPort) error {
	mode, err := d.config.socketMode()
	if err != nil {
		return err
	}
	name := p.Name
	access := unixsocket.Access{UID: p.UID, Group: d.config.SocketGroup, Mode: mode}
	if p.GID != nil {
		access.Group = strconv.Itoa(*p.GID)
	}
	c := user.Config{Path: path, Name: name, Access: access, Switch: d, Options: d.options, Journal: d.journal, Log: d.log}
	ctx, cancel := context.WithCancel(d.serveCtx)
	s := &socket{path: path, name: name, cancel: cancel, done: make(chan struct{})}
	serve := func() error { return user.Connect(ctx, c) }
	if !d.config.Client || name != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			cancel()
			return fmt.Errorf("directory of socket %s: %w", path, err)
		}
		server, err := user.Listen(c)
		if err != nil {
			cancel()
			return err
		}
		serve = func() error { return server.Serve(ctx) }
	}
	go func() {
		defer close(s.done)
		if err := serve(); err != nil {
			d.fail(err)
		}
	}()
	d.mu.Lock()
	d.sockets[path] = s
	d.mu.Unlock()
	return nil
}

// close ends the socket and its devices.
func (s *socket) close() {
	s.cancel()
	<-s.done
}

func (d *Daemon) closeSockets() {
	d.mu.Lock()
	var all []*socket
	for _, s := range d.sockets {
		all = append(all, s)
	}
	d.mu.Unlock()
	for _, s := range all {
		s.close()
	}
}

// AddPort makes a named port with a socket of its own and remembers it.
func (d *Daemon) AddPort(_ context.Context, r control.AddPortRequest) (control.Port, error) {
	for _, id := range []*int{r.UID, r.GID} {
		if id != nil && (*id < 0 || *id > math.MaxInt32) {
			return control.Port{}, fmt.Errorf("%w: user or group %d", control.ErrBadRequest, *id)
		}
	}
	d.persistMu.Lock()
	defer d.persistMu.Unlock()
	return d.addPort(namedPort{Name: r.Name, UID: r.UID, GID: r.GID})
}

// addPort needs persistMu.
func (d *Daemon) addPort(n namedPort) (control.Port, error) {
	if !portName.MatchString(n.Name) {
		return control.Port{}, fmt.Errorf("%w: port name %q: want 1 to 63 letters, digits, '.', '_' and '-', the first a letter",
			control.ErrBadRequest, n.Name)
	}
	d.mu.Lock()
	_, exists := d.named[n.Name]
	d.mu.Unlock()
	if exists {
		return control.Port{}, fmt.Errorf("%w: port %q", control.ErrExists, n.Name)
	}
	path := d.socketOf(n.Name)
	if err := d.openSocket(path, n); err != nil {
		return control.Port{}, err
	}
	d.mu.Lock()
	d.named[n.Name] = n
	d.mu.Unlock()
	if err := d.persistPorts(); err != nil {
		d.dropNamed(n.Name)
		return control.Port{}, err
	}
	d.log.Info("port added", "name", n.Name, "socket", path)
	p, _ := d.portByName(n.Name)
	return p, nil
}

// RemovePort closes a named port's socket and its device, and forgets it.
func (d *Daemon) RemovePort(_ context.Context, name string) error {
	d.persistMu.Lock()
	defer d.persistMu.Unlock()
	if !d.dropNamed(name) {
		return fmt.Errorf("%w: port %q; vhostctl ports lists them", control.ErrNotFound, name)
	}
	d.log.Info("port removed", "name", name)
	return d.persistPorts()
}

func (d *Daemon) dropNamed(name string) bool {
	d.mu.Lock()
	_, ok := d.named[name]
	path := d.socketOf(name)
	s := d.sockets[path]
	if ok {
		delete(d.named, name)
		d.history.forget(name)
		delete(d.sockets, path)
	}
	d.mu.Unlock()
	if ok && s != nil {
		s.close()
	}
	return ok
}

// portsFile is what persists of the named ports.
type portsFile struct {
	Ports []namedPort `json:"ports"`
}

// UnmarshalJSON reads a name alone, too: that is how ports without an owner were remembered at first.
func (n *namedPort) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, &n.Name) == nil {
		return nil
	}
	type plain namedPort
	return json.Unmarshal(data, (*plain)(n))
}

func (d *Daemon) portsPath() string { return filepath.Join(d.config.StateDir, "ports.json") }

// persistPorts writes the file anew and puts it in place at once.
func (d *Daemon) persistPorts() error {
	d.mu.Lock()
	file := portsFile{Ports: []namedPort{}}
	for _, n := range d.named {
		file.Ports = append(file.Ports, n)
	}
	d.mu.Unlock()
	slices.SortFunc(file.Ports, func(a, b namedPort) int { return strings.Compare(a.Name, b.Name) })
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	fail := func(err error) error {
		return fmt.Errorf("remembering the ports in %s: %w (option --state-dir names another directory)", d.portsPath(), err)
	}
	if err := os.MkdirAll(d.config.StateDir, 0o755); err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(d.config.StateDir, ".ports-*")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fail(err)
	}
	if err := os.Rename(f.Name(), d.portsPath()); err != nil {
		return fail(err)
	}
	return nil
}

// restorePorts opens the sockets of the ports that were there before the restart.
func (d *Daemon) restorePorts() error {
	data, err := os.ReadFile(d.portsPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the remembered ports: %w", err)
	}
	var file portsFile
	if err := json.Unmarshal(data, &file); err != nil {
		return fmt.Errorf("%s is damaged: %w; remove it, and add the ports again with vhostctl port add", d.portsPath(), err)
	}
	for _, n := range file.Ports {
		if !portName.MatchString(n.Name) {
			return fmt.Errorf("%s names a port %q, which is no port name; correct or remove the file", d.portsPath(), n.Name)
		}
		if err := d.openSocket(d.socketOf(n.Name), n); err != nil {
			return err
		}
		d.mu.Lock()
		d.named[n.Name] = n
		d.mu.Unlock()
	}
	return nil
}
