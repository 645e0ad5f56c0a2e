// Package attach puts the interfaces of libvirt domains on the switch and takes them off again: the domain's configuration, the running
// guest where that is possible, and the ports of the switch, together or not at all.
package attach

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"

	"vhostkit/internal/host"
	"vhostkit/internal/sysedit"
	"vhostkit/libvirt"
	"vhostkit/libvirt/domainxml"
	"vhostkit/switchd/control"
)

// Switch is what is wanted of a running switchd (control.Client).
type Switch interface {
	Version(context.Context) (control.VersionInfo, error)
	Port(ctx context.Context, which string) (control.Port, error)
	AddPortAs(context.Context, control.AddPortRequest) (control.Port, error)
	RemovePort(ctx context.Context, name string) error
}

// Request says what to do with a domain.
type Request struct {
	Domain     string   // name or UUID
	Interfaces []string // selectors of domainxml.Options
	CUSE       string   // device for --mode cuse; empty: vhost-user
	Memory     string   // domainxml.MemoryMemfd, …
	Queues     int
	Config     bool // change the configuration
	Live       bool // change the running guest, or fail
	Start      bool // start the domain afterwards
	Force      bool // Detach: also if what attach wrote was changed since
}

// Plan is what will be done.
type Plan struct {
	Domain  string   `json:"domain"`
	Changes []string `json:"changes"`
	Notes   []string `json:"notes"` // what the user should know, such as that a power cycle is needed
	Ports   []string `json:"ports"` // that switchd is asked for, or that are given back
	// PowerCycle tells that the running guest goes on as before until it is stopped and started again.
	PowerCycle bool `json:"power_cycle"`
	Started    bool `json:"start"`

	conn    libvirt.Connection
	sw      Switch
	domain  libvirt.Domain
	running bool
	before  string // configuration
	after   string
	detach  bool
	add     []control.AddPortRequest
	remove  []string
	swaps   []swap
}

// swap is an interface of the running guest that is unplugged and another plugged in for it.
type swap struct{ mac, old, new string }

// timeouts of the running guest's consent to give a device up.
const (
	unplugTimeout = 30 * time.Second
	unplugPoll    = 100 * time.Millisecond
)

// Empty reports whether there is nothing to change.
func (p *Plan) Empty() bool {
	return p.before == p.after && len(p.swaps) == 0 && !p.Started && len(p.remove) == 0
}

// Diff is the change of the configuration.
func (p *Plan) Diff() string {
	return sysedit.Diff("a/"+p.Domain+".xml", "b/"+p.Domain+".xml", hide(p.before), hide(p.after))
}

var passwords = regexp.MustCompile(`(passwd=)('[^']*'|"[^"]*")`)

// hide makes passwords unreadable: the description has them so that it can be defined again.
func hide(text string) []byte { return passwords.ReplaceAll([]byte(text), []byte("$1'***'")) }

// PrepareAttach works out what attaching needs. Nothing is changed yet.
func PrepareAttach(ctx context.Context, conn libvirt.Connection, sw Switch, r Request) (*Plan, error) {
	p, err := newPlan(conn, sw, r)
	if err != nil {
		return nil, err
	}
	namer, err := p.namer(ctx, r)
	if err != nil {
		return nil, err
	}
	result, err := domainxml.Attach(p.before, domainxml.Options{
		Select: r.Interfaces, CUSE: r.CUSE, Memory: r.Memory, Queues: r.Queues, Port: namer,
	})
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", p.Domain, err)
	}
	p.after, p.Changes = result.XML, result.Changes
	if err := p.wantPorts(result.Ports); err != nil {
		return nil, err
	}
	if r.CUSE == "" {
		if err := p.planSwaps(r, result.Ports); err != nil {
			return nil, err
		}
	} else if p.running {
		p.PowerCycle = true
	}
	p.notes(r)
	return p, nil
}

// newPlan looks the domain up.
func newPlan(conn libvirt.Connection, sw Switch, r Request) (*Plan, error) {
	d, err := conn.Domain(r.Domain)
	if err != nil {
		return nil, err
	}
	p := &Plan{Domain: d.Name(), conn: conn, sw: sw, domain: d, Changes: []string{}, Notes: []string{}, Ports: []string{}}
	running, persistent, err := d.State()
	if err != nil {
		return nil, err
	}
	if !persistent {
		return nil, fmt.Errorf("domain %s is transient, it has no configuration to change: define it first (virsh define)", p.Domain)
	}
	if r.Live && !running {
		return nil, fmt.Errorf("domain %s is not running; omit --live", p.Domain)
	}
	if r.Start && running {
		return nil, fmt.Errorf("domain %s is already running; omit --start", p.Domain)
	}
	p.running, p.Started = running, r.Start
	p.before, err = d.XML(false)
	return p, err
}

// namer gives interfaces their ports: DOMAIN-net0 and so on, the same name at each attach.
func (p *Plan) namer(ctx context.Context, r Request) (func(domainxml.Interface) (string, string, error), error) {
	if r.CUSE != "" {
		return nil, nil
	}
	version, err := p.sw.Version(ctx)
	if err != nil {
		return nil, err
	}
	return func(i domainxml.Interface) (string, string, error) {
		name := PortName(p.Domain, i.Index)
		socket := filepath.Join(version.SocketDir, name+".sock")
		port, err := p.sw.Port(ctx, name)
		switch {
		case err == nil:
			socket = port.Socket
		case !control.IsNotFound(err):
			return "", "", err
		}
		if len(socket) > host.MaxSocketPath {
			return "", "", fmt.Errorf("socket path %s has more than %d bytes: give switchd a shorter --socket-dir", socket, host.MaxSocketPath)
		}
		return name, socket, nil
	}, nil
}

// PortName is the name of the port of a domain's interface.
func PortName(domain string, index int) string {
	return control.PortName(domain, fmt.Sprintf("net%d", index))
}

// wantPorts notes which ports the switch must have, with sockets that QEMU's user may connect to.
func (p *Plan) wantPorts(ports []domainxml.Port) error {
	if len(ports) == 0 {
		return nil
	}
	uid, gid, err := p.owner()
	if err != nil {
		return err
	}
	for _, port := range ports {
		p.add = append(p.add, control.AddPortRequest{Name: port.Name, UID: uid, GID: gid})
		p.Ports = append(p.Ports, port.Name)
	}
	return nil
}

// planSwaps works out what can be done to the running guest.
func (p *Plan) planSwaps(r Request, ports []domainxml.Port) error {
	if !p.running || !r.Live && r.Config {
		p.PowerCycle = p.running && p.before != p.after
		return nil
	}
	live, err := p.domain.XML(true)
	if err != nil {
		return err
	}
	now, err := domainxml.Inspect(live)
	if err != nil {
		return err
	}
	if !now.Memory.Shared {
		if r.Live {
			return fmt.Errorf("domain %s runs with private memory, which cannot be changed while it runs: attach with --config, then stop and "+
				"start it", p.Domain)
		}
		p.PowerCycle = p.before != p.after
		return nil
	}
	for _, port := range ports {
		for _, i := range now.Interfaces {
			if !strings.EqualFold(i.MAC, port.MAC) || i.Type == "vhostuser" && i.Socket == port.Socket {
				continue
			}
			s, err := newSwap(live, i.MAC, p.after)
			if err != nil {
				return err
			}
			p.swaps = append(p.swaps, s)
			p.Changes = append(p.Changes, fmt.Sprintf("interface %s of the running guest: unplugged, and plugged in again on the switch", i.MAC))
		}
	}
	return nil
}

// newSwap takes the old device from one description and the new one from another.
func newSwap(from, mac, to string) (swap, error) {
	old, err := domainxml.InterfaceXML(from, mac)
	if err != nil {
		return swap{}, err
	}
	next, err := domainxml.InterfaceXML(to, mac)
	return swap{mac, old, next}, err
}

func (p *Plan) notes(r Request) {
	if p.PowerCycle {
		p.Notes = append(p.Notes, fmt.Sprintf("the running guest is unchanged: stop and start it (virsh shutdown %s; virsh start %s); a reboot "+
			"inside the guest is not enough", p.Domain, p.Domain))
	}
	if version, err := p.conn.Version(); err == nil && version < 11002000 && r.Memory == domainxml.MemoryKeep {
		if d, err := domainxml.Inspect(p.after); err == nil && !d.Memory.Shared {
			p.Notes = append(p.Notes, "the memory is not shared: this libvirt starts the domain without a warning, but no packets flow")
		}
	}
	if r.CUSE != "" {
		p.Notes = append(p.Notes, "libvirt opens "+r.CUSE+" for domains of type kvm; those of type qemu need <emulator>/usr/bin/qemu-wrap</emulator>")
	}
}

// PrepareDetach works out the way back.
func PrepareDetach(ctx context.Context, conn libvirt.Connection, sw Switch, r Request) (*Plan, error) {
	p, err := newPlan(conn, sw, r)
	if err != nil {
		return nil, err
	}
	p.detach = true
	back, err := domainxml.Detach(p.before, r.Force)
	if errors.Is(err, domainxml.ErrNotAttached) {
		p.after = p.before
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", p.Domain, err)
	}
	p.after, p.Changes = back.XML, back.Changes
	if err := p.planSwapsBack(r, back.Ports); err != nil {
		return nil, err
	}
	for _, port := range back.Ports {
		p.Ports = append(p.Ports, port.Name)
		if p.running && len(p.swaps) == 0 {
			p.Notes = append(p.Notes, fmt.Sprintf("port %s stays until the guest is stopped; then: vhostctl port remove %s", port.Name, port.Name))
			continue
		}
		if _, err := sw.Port(ctx, port.Name); err == nil {
			p.remove = append(p.remove, port.Name)
		}
	}
	return p, nil
}

// planSwapsBack works out what of the running guest can go back.
func (p *Plan) planSwapsBack(r Request, ports []domainxml.Port) error {
	if !p.running || !r.Live && r.Config {
		p.PowerCycle = p.running
		return nil
	}
	live, err := p.domain.XML(true)
	if err != nil {
		return err
	}
	now, err := domainxml.Inspect(live)
	if err != nil {
		return err
	}
	for _, port := range ports {
		for _, i := range now.Interfaces {
			if i.Type != "vhostuser" || i.Socket != port.Socket {
				continue
			}
			s, err := newSwap(live, i.MAC, p.after)
			if err != nil {
				return err
			}
			p.swaps = append(p.swaps, s)
			p.Changes = append(p.Changes, fmt.Sprintf("interface %s of the running guest: unplugged, and plugged in again as before attach", i.MAC))
		}
	}
	return nil
}

// Apply does it. What was begun is undone as far as possible when a step fails.
func (p *Plan) Apply(ctx context.Context, progress func(string)) error {
	var undo []func() error
	fail := func(err error) error {
		all := multierror.Append(nil, err)
		for i := len(undo) - 1; i >= 0; i-- {
			if e := undo[i](); e != nil {
				all = multierror.Append(all, fmt.Errorf("undoing: %w", e))
			}
		}
		if all.Len() == 1 {
			return err
		}
		return all
	}
	for _, request := range p.add {
		made, err := p.addPort(ctx, request)
		if err != nil {
			return fail(err)
		}
		if made {
			progress("port " + request.Name + " added to switchd")
			undo = append(undo, func() error { return p.sw.RemovePort(context.WithoutCancel(ctx), request.Name) })
		}
	}
	if p.before != p.after {
		if _, err := p.conn.Define(p.after); err != nil {
			return fail(err)
		}
		undo = append(undo, func() error { _, err := p.conn.Define(p.before); return err })
		if err := p.seal(); err != nil {
			return fail(err)
		}
		progress("configuration of domain " + p.Domain + " changed")
	}
	for _, s := range p.swaps {
		if err := p.swap(ctx, s, progress); err != nil {
			return fail(err)
		}
		undo = append(undo, func() error {
			return p.swap(context.WithoutCancel(ctx), swap{mac: s.mac, old: s.new, new: s.old}, progress)
		})
	}
	for _, name := range p.remove {
		if err := p.sw.RemovePort(ctx, name); err != nil && !control.IsNotFound(err) {
			return err // the domain is done; a leftover port is harmless
		}
		progress("port " + name + " removed from switchd")
	}
	if p.Started {
		if err := p.domain.Start(); err != nil {
			return err
		}
		progress("domain " + p.Domain + " started")
	}
	return nil
}

// addPort makes a port; one that is there already will do.
func (p *Plan) addPort(ctx context.Context, r control.AddPortRequest) (made bool, err error) {
	_, err = p.sw.AddPortAs(ctx, r)
	if control.IsExists(err) {
		return false, nil
	}
	return err == nil, err
}

// seal notes again what Attach made, as libvirt has written it.
func (p *Plan) seal() error {
	if p.detach {
		return nil
	}
	written, err := p.domain.XML(false)
	if err != nil {
		return err
	}
	sealed, err := domainxml.Seal(written)
	if err != nil || sealed == written {
		return err
	}
	_, err = p.conn.Define(sealed)
	return err
}

// swap unplugs an interface, waits until the guest has given it up, and plugs the other in.
func (p *Plan) swap(ctx context.Context, s swap, progress func(string)) error {
	progress("unplugging interface " + s.mac + "; the guest has to agree")
	if err := p.domain.DetachDevice(s.old); err != nil {
		return err
	}
	if err := p.gone(ctx, s.mac); err != nil {
		return err
	}
	if err := p.domain.AttachDevice(s.new); err != nil {
		err = fmt.Errorf("%w (a machine of type q35 needs a free pcie-root-port for each interface that is plugged in)", err)
		if back := p.domain.AttachDevice(s.old); back != nil {
			return multierror.Append(err, fmt.Errorf("and plugging the old one in again: %w", back))
		}
		return err
	}
	progress("interface " + s.mac + " plugged in again")
	return nil
}

// gone waits until the running guest has no interface with that address.
func (p *Plan) gone(ctx context.Context, mac string) error {
	for end := time.Now().Add(unplugTimeout); ; {
		live, err := p.domain.XML(true)
		if err != nil {
			return err
		}
		if _, err := domainxml.InterfaceXML(live, mac); err != nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the guest has not given up interface %s within %v: does it run, and does it support hot plugging (ACPI, pciehp)?", mac,
				unplugTimeout)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(unplugPoll):
		}
	}
}
