package doctor

import (
	"context"
	"errors"
	"fmt"

	"vhostkit/libvirt"
)

// Connect opens a connection by libvirt's library; where there is none, or this program was built without, by virsh.
func Connect(ctx context.Context, run Runner, uri string) (Libvirt, error) {
	l := &library{}
	err := l.call(ctx, func() (err error) {
		l.connection, err = libvirt.Connect(firstOf(uri, libvirt.DefaultURI))
		return err
	})
	if err == nil {
		return l, nil
	}
	if errors.Is(err, libvirt.ErrUnavailable) {
		if v, virshErr := ConnectVirsh(ctx, run, uri); virshErr == nil {
			return v, nil
		}
	}
	return nil, err
}

// library is a connection of package libvirt whose calls end with their context.
type library struct {
	connection libvirt.Connection
	hangs      error // set for good when a call did not come back: the connection takes one at a time
}

func (l *library) call(ctx context.Context, f func() error) error {
	if l.hangs != nil {
		return l.hangs
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		l.hangs = fmt.Errorf("libvirt does not answer: %w", ctx.Err())
		return l.hangs
	}
}

// Version implements Libvirt.
func (l *library) Version(ctx context.Context) (int, error) {
	return ask(ctx, l, l.connection.Version)
}

// Capabilities implements Libvirt.
func (l *library) Capabilities(ctx context.Context) (string, error) {
	return ask(ctx, l, l.connection.Capabilities)
}

// DomainNames implements Libvirt.
func (l *library) DomainNames(ctx context.Context) ([]string, error) {
	return ask(ctx, l, func() ([]string, error) {
		list, err := l.connection.Domains()
		var names []string
		for _, d := range list {
			names = append(names, d.Name())
		}
		return names, err
	})
}

// Domain implements Libvirt.
func (l *library) Domain(ctx context.Context, name string) (DomainXML, error) {
	return ask(ctx, l, func() (x DomainXML, err error) {
		d, err := l.connection.Domain(name)
		if err != nil {
			return x, err
		}
		x.Name = d.Name()
		running, persistent, err := d.State()
		if err == nil && running {
			x.Live, err = d.XML(true)
		}
		if err == nil && (persistent || !running) {
			x.Config, err = d.XML(false)
		}
		return x, err
	})
}

// ask gives the answer of a call that came back in time. One that comes later goes nowhere.
func ask[T any](ctx context.Context, l *library, f func() (T, error)) (T, error) {
	answer := make(chan T, 1)
	err := l.call(ctx, func() error {
		v, err := f()
		answer <- v
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return <-answer, nil
}
