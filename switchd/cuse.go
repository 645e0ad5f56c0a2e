package switchd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"vhostkit/switchd/unixsocket"
	"vhostkit/switchd/vhost/cuse"
)

// Backends of --backend.
const (
	backendUser = "vhost-user"
	backendCUSE = "cuse"
	backendBoth = "both"
)

// DefaultDevice is the device of --backend cuse where no name is given, the one that qemu-wrap looks for.
const DefaultDevice = "usvhost"

// Name gives the devices or sockets of the chosen backends their names (--dev-basename), in front of those that the configuration has
// already.
func (c *Config) Name(basenames ...string) {
	if c.Backend != backendUser {
		for i := len(basenames); i > 0; i-- {
			if name := filepath.Base(basenames[i-1]); !slices.Contains(c.CUSEDevices, name) {
				c.CUSEDevices = append([]string{name}, c.CUSEDevices...)
			}
		}
	}
	if c.Backend != backendCUSE {
		c.SocketFiles = append(slices.Clone(basenames), c.SocketFiles...)
	}
}

// UsesCUSE tells that devices of vhost-cuse are to be made.
func (c *Config) UsesCUSE() bool { return c.Backend != backendUser }

// UsesSockets tells that sockets of vhost-user are to be made, also where none is named.
func (c *Config) UsesSockets() bool { return c.Backend != backendCUSE }

// CUSEPaths are the devices that the daemon makes.
func (c *Config) CUSEPaths() []string {
	if !c.UsesCUSE() {
		return nil
	}
	var paths []string
	for _, name := range c.CUSEDevices {
		paths = append(paths, "/dev/"+name)
	}
	return paths
}

func (c *Config) checkCUSE() error {
	if err := oneOf("--backend", c.Backend, backendUser, backendCUSE, backendBoth); err != nil {
		return err
	}
	if _, err := c.cuseMode(); err != nil {
		return &RangeError{"--cuse-mode", strconv.Quote(c.CUSEMode), "an octal mode such as 0660"}
	}
	if !c.UsesCUSE() {
		return nil
	}
	if len(c.CUSEDevices) == 0 {
		return &RangeError{"--dev-basename", `""`, "the name of a device for --backend " + c.Backend}
	}
	for i, name := range c.CUSEDevices {
		if !cuse.ValidName(name) {
			return &RangeError{"--dev-basename", strconv.Quote(name), "1 to 63 letters, digits, '.', '_' and '-'"}
		}
		if slices.Contains(c.CUSEDevices[:i], name) {
			return &RangeError{"--dev-basename", strconv.Quote(name), "each name once"}
		}
	}
	return nil
}

func (c *Config) cuseMode() (os.FileMode, error) {
	mode, err := strconv.ParseUint(c.CUSEMode, 8, 9)
	return os.FileMode(mode), err
}

// openDevices makes the devices of vhost-cuse.
func (d *Daemon) openDevices() error {
	mode, err := d.config.cuseMode()
	if err != nil {
		return err
	}
	access := unixsocket.Access{Group: d.config.CUSEGroup, Mode: mode}
	if access.Group != "" {
		if _, err := unixsocket.GroupID(access.Group); err != nil {
			d.log.Info("devices belong to root's group", "wanted", access.Group, "option", "--cuse-group", "error", err)
			access.Group = ""
		}
	}
	for _, path := range d.config.CUSEPaths() {
		if err := d.openDevice(filepath.Base(path), access); err != nil {
			return fmt.Errorf("--backend %s: %w", d.config.Backend, err)
		}
	}
	return nil
}

func (d *Daemon) openDevice(name string, access unixsocket.Access) error {
	server, err := cuse.Open(cuse.Config{Name: name, Access: access, Switch: d, Options: d.options, Log: d.log, Budget: d.budget})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(d.serveCtx)
	s := &socket{path: "/dev/" + name, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if err := server.Serve(ctx); err != nil {
			d.fail(err)
		}
	}()
	d.mu.Lock()
	d.sockets[s.path] = s
	d.mu.Unlock()
	return nil
}
