package daemon

import (
	"context"
	"fmt"
	"path/filepath"

	"vhostkit/switchd/unixsocket"
	"vhostkit/switchd/vhost/cuse"
)

// openDevices makes the devices of vhost-cuse.
func (d *Daemon) openDevices() error {
	mode, err := d.config.ParsedCUSEMode()
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
	ctx, cancel := context.WithCancel(context.Background()) // until closeSockets, or the port is removed
	s := &socket{path: "/dev/" + name, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if err := server.Serve(ctx); err != nil {
			d.fail(err)
		}
	}()
	d.register(s)
	return nil
}
