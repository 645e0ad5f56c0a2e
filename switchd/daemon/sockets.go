package daemon

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
	"time"

	"vhostkit/switchd/control"
	"vhostkit/switchd/unixsocket"
	"vhostkit/switchd/vhost/user"
)

// socket is a vhost-user socket that the daemon serves.
type socket struct {
	path, name string
	cancel     context.CancelFunc
	tally      user.Tally
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
	// Used is when a device came or went last, as far as it was written down.
	Used *time.Time `json:"used,omitempty"`
}

func (d *Daemon) socketOf(name string) string { return filepath.Join(d.config.SocketDir, name+".sock") }

// openSocket serves a path, as a server or in client mode; the port's name is empty for shared sockets.
func (d *Daemon) openSocket(path string, p namedPort) error {
	mode, err := d.config.ParsedSocketMode()
	if err != nil {
		return err
	}
	name := p.Name
	access := unixsocket.Access{UID: p.UID, Group: d.config.SocketGroup, Mode: mode}
	if p.GID != nil {
		access.Group = strconv.Itoa(*p.GID)
	}
	c := user.Config{Path: path, Name: name, Access: access, Switch: d, Options: d.options, Journal: d.journal, Log: d.log, Budget: d.budget}
	ctx, cancel := context.WithCancel(context.Background()) // until closeSockets, or the port is removed
	s := &socket{path: path, name: name, cancel: cancel, done: make(chan struct{})}
	c.Tally = &s.tally
	serve := func() error { return user.Connect(ctx, c) }
	if !d.config.Client || name != "" {
		if err := unixsocket.MakeDirectory(filepath.Dir(path)); err != nil {
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
	d.register(s)
	return nil
}

// register has closeSockets end the socket too; one that comes when that has begun ends at once.
func (d *Daemon) register(s *socket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sockets[s.path] = s
	if d.closed {
		s.cancel()
	}
}

// closeSockets ends all sockets and their devices at once, and tells whether that was done by the deadline.
func (d *Daemon) closeSockets(deadline time.Time) bool {
	d.mu.Lock()
	d.closed = true
	var all []*socket
	for _, s := range d.sockets {
		all = append(all, s)
	}
	for s := range d.leaving {
		all = append(all, s)
	}
	d.mu.Unlock()
	for _, s := range all {
		s.cancel()
	}
	var left []string
	for _, s := range all {
		if !s.waitFor(deadline) {
			left = append(left, s.path)
		}
	}
	if len(left) > 0 {
		d.log.Error("devices did not stop in time: the kernel waits for their front-ends; continuing shutdown", "sockets", left[:min(len(left), 10)], "number", len(left))
	}
	return len(left) == 0
}

// AddPort makes a named port with a socket of its own and remembers it.
func (d *Daemon) AddPort(_ context.Context, r control.AddPortRequest) (control.Port, error) {
	for _, id := range []*int{r.UID, r.GID} {
		if id != nil && (*id < 0 || *id > math.MaxInt32) {
			return control.Port{}, fmt.Errorf("%w: user or group %d", control.ErrBadRequest, *id)
		}
	}
	return d.addPort(namedPort{Name: r.Name, UID: r.UID, GID: r.GID})
}

// addPort makes a port. The name is taken at once; nothing is locked while the socket is made and the name is written down.
func (d *Daemon) addPort(p namedPort) (control.Port, error) {
	if !portName.MatchString(p.Name) {
		return control.Port{}, fmt.Errorf("%w: invalid port name %q: 1 to 63 letters, digits, \".\", \"_\" or \"-\", starting with a letter",
			control.ErrBadRequest, p.Name)
	}
	n := &namedState{namedPort: p, ready: make(chan struct{}), since: time.Now()}
	defer close(n.ready)
	d.mu.Lock()
	giveUp, err := "", error(nil)
	if d.named[p.Name] != nil {
		err = fmt.Errorf("%w: port %q", control.ErrExists, p.Name)
	} else if p.Asked != nil {
		giveUp, err = d.mayAsk(*p.Asked, n.since)
	}
	if err == nil {
		d.named[p.Name] = n
	}
	d.mu.Unlock()
	if err != nil {
		return control.Port{}, err
	}
	if giveUp != "" {
		if s := d.forget(giveUp); s != nil {
			s.cancel()
			d.log.Info("port given up for another one: no device uses it; a guest that starts again gets it again", "name", giveUp, "for", p.Name)
		}
	}
	path := d.socketOf(p.Name)
	err = d.openSocket(path, p)
	if err == nil {
		err = d.persistPorts()
	}
	if err != nil {
		if s := d.forget(p.Name); s != nil {
			s.cancel()
		}
		if e := d.persistPorts(); e != nil { // another one's writing may have had the name
			d.log.Warn("remembering the ports", "error", e)
		}
		return control.Port{}, err
	}
	d.log.Info("port added", "name", p.Name, "socket", path)
	return disconnected(p.Name, path), nil
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

// persistPorts writes the file anew and puts it in place at once. Who comes while it is written waits for the next writing, which is for
// all that came until then.
func (d *Daemon) persistPorts() error {
	d.mu.Lock()
	d.changes++
	wanted := d.changes
	d.mu.Unlock()
	d.persistMu.Lock() // held for the disk only
	defer d.persistMu.Unlock()
	d.mu.Lock()
	if d.written >= wanted {
		d.mu.Unlock()
		return nil
	}
	contained := d.changes
	file := portsFile{Ports: []namedPort{}}
	for _, n := range d.named {
		file.Ports = append(file.Ports, n.namedPort)
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
	if err := unixsocket.MakeDirectory(d.config.StateDir); err != nil {
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
	d.mu.Lock()
	d.written = contained
	d.mu.Unlock()
	return nil
}

// restorePorts opens the sockets of the ports that were there before the restart.
func (d *Daemon) restorePorts() error {
	ports, err := readPorts(d.portsPath())
	if err != nil {
		return err
	}
	for _, n := range ports {
		if err := d.openSocket(d.socketOf(n.Name), n); err != nil {
			return err
		}
		state := &namedState{namedPort: n, ready: make(chan struct{}), since: time.Now()}
		close(state.ready)
		d.mu.Lock()
		d.named[n.Name] = state
		d.mu.Unlock()
	}
	return nil
}
