//go:build cgo

package libvirt

import (
	"errors"
	"fmt"
	"sort"

	golibvirt "libvirt.org/go/libvirt"
)

// Connect opens a connection; an empty uri is DefaultURI.
func Connect(uri string) (Connection, error) {
	if uri == "" {
		uri = DefaultURI
	}
	c, err := golibvirt.NewConnect(uri)
	if err != nil {
		return nil, fmt.Errorf("%w: connecting to %s: %w (are libvirt's packages installed, and is libvirtd or virtqemud running?)",
			ErrUnavailable, uri, plain(err))
	}
	return &connection{c}, nil
}

// plain takes libvirt's message out of its error, without the numbers around it.
func plain(err error) error {
	var e golibvirt.Error
	if errors.As(err, &e) {
		return errors.New(e.Message)
	}
	return err
}

type connection struct{ c *golibvirt.Connect }

func (c *connection) Version() (int, error) {
	v, err := c.c.GetLibVersion()
	if err != nil {
		return 0, fmt.Errorf("libvirt's version: %w", plain(err))
	}
	return int(v), nil
}

func (c *connection) Capabilities() (string, error) {
	xml, err := c.c.GetCapabilities()
	if err != nil {
		return "", fmt.Errorf("libvirt's capabilities: %w", plain(err))
	}
	return xml, nil
}

func (c *connection) Close() error {
	_, err := c.c.Close()
	return err
}

func (c *connection) Domains() ([]Domain, error) {
	all, err := c.c.ListAllDomains(0)
	if err != nil {
		return nil, fmt.Errorf("listing the domains: %w", plain(err))
	}
	list := make([]Domain, 0, len(all))
	for i := range all {
		d, err := wrap(&all[i])
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name() < list[j].Name() })
	return list, nil
}

func (c *connection) Domain(name string) (Domain, error) {
	d, err := c.c.LookupDomainByName(name)
	if err != nil {
		if byUUID, uuidErr := c.c.LookupDomainByUUIDString(name); uuidErr == nil {
			return wrap(byUUID)
		}
		var e golibvirt.Error
		if errors.As(err, &e) && e.Code == golibvirt.ERR_NO_DOMAIN {
			return nil, fmt.Errorf("%w: %s (virsh list --all shows them)", ErrNoDomain, name)
		}
		return nil, fmt.Errorf("looking for domain %s: %w", name, plain(err))
	}
	return wrap(d)
}

func (c *connection) Define(xml string) (Domain, error) {
	d, err := c.c.DomainDefineXMLFlags(xml, golibvirt.DOMAIN_DEFINE_VALIDATE)
	if err != nil {
		return nil, fmt.Errorf("defining the domain: %w", plain(err))
	}
	return wrap(d)
}

type domain struct {
	d    *golibvirt.Domain
	name string
}

func wrap(d *golibvirt.Domain) (*domain, error) {
	name, err := d.GetName()
	if err != nil {
		return nil, fmt.Errorf("a domain's name: %w", plain(err))
	}
	return &domain{d, name}, nil
}

func (d *domain) Name() string { return d.name }

func (d *domain) State() (running, persistent bool, err error) {
	if running, err = d.d.IsActive(); err == nil {
		persistent, err = d.d.IsPersistent()
	}
	if err != nil {
		return false, false, fmt.Errorf("state of domain %s: %w", d.name, plain(err))
	}
	return running, persistent, nil
}

func (d *domain) XML(running bool) (string, error) {
	flags := golibvirt.DOMAIN_XML_SECURE
	if !running {
		flags |= golibvirt.DOMAIN_XML_INACTIVE
	}
	xml, err := d.d.GetXMLDesc(flags)
	if err != nil {
		return "", fmt.Errorf("description of domain %s: %w", d.name, plain(err))
	}
	return xml, nil
}

func (d *domain) Start() error {
	if err := d.d.Create(); err != nil {
		return fmt.Errorf("starting domain %s: %w", d.name, plain(err))
	}
	return nil
}

func (d *domain) Stop() error {
	if err := d.d.Destroy(); err != nil {
		return fmt.Errorf("stopping domain %s: %w", d.name, plain(err))
	}
	return nil
}

func (d *domain) AttachDevice(xml string) error {
	if err := d.d.AttachDeviceFlags(xml, golibvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		return fmt.Errorf("plugging a device into domain %s: %w", d.name, plain(err))
	}
	return nil
}

func (d *domain) DetachDevice(xml string) error {
	if err := d.d.DetachDeviceFlags(xml, golibvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		return fmt.Errorf("unplugging a device of domain %s: %w", d.name, plain(err))
	}
	return nil
}
