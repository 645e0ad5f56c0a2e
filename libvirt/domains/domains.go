// Package domains tells which libvirt domains are on the switch, and whether frames can flow.
package domains

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"vhostkit/libvirt"
	"vhostkit/libvirt/domainxml"
	"vhostkit/qemuwrap"
	"vhostkit/switchd/control"
)

// Switch is what is wanted of a running switchd (control.Client).
type Switch interface {
	Ports(context.Context) ([]control.Port, error)
}

// Entry is one interface of a domain that is on the switch, or is meant to be.
type Entry struct {
	Domain    string `json:"domain"`
	Running   bool   `json:"running"`
	Interface string `json:"interface"` // alias, net0 and so on
	MAC       string `json:"mac"`       // as the domain's description has it

	Port      int      `json:"port"` // number; -1: none
	PortName  string   `json:"port_name,omitempty"`
	PortState string   `json:"port_state,omitempty"` // control.StateReady, …; empty: the switch has no such port
	Socket    string   `json:"socket,omitempty"`
	Shared    bool     `json:"memory_shared"`
	Features  []string `json:"features"` // negotiated
	Hex       string   `json:"features_hex,omitempty"`

	Ready bool   `json:"ready"`
	Why   string `json:"why,omitempty"` // it is not ready, or what is remarkable
}

// List finds them: interfaces of type vhostuser, those that qemu-wrap has put or would put on the switch, and those that are attached in the
// configuration only. A domain whose description cannot be read has one entry that says so.
func List(ctx context.Context, conn libvirt.Connection, sw Switch) ([]Entry, error) {
	ports, err := sw.Ports(ctx)
	if err != nil {
		return nil, err
	}
	all, err := conn.Domains()
	if err != nil {
		return nil, err
	}
	list := []Entry{}
	for _, d := range all {
		entries, err := ofDomain(d, ports)
		if err != nil {
			// It may have ended a moment ago.
			entries = []Entry{{Domain: d.Name(), Port: -1, Features: []string{}, Why: err.Error()}}
		}
		list = append(list, entries...)
	}
	return list, nil
}

func ofDomain(d libvirt.Domain, ports []control.Port) ([]Entry, error) {
	running, persistent, err := d.State()
	if err != nil {
		return nil, err
	}
	now, err := inspect(d, running)
	if err != nil {
		return nil, err
	}
	configured := now
	if running && persistent {
		if configured, err = inspect(d, false); err != nil {
			return nil, err
		}
	}
	var list []Entry
	for _, i := range now.Interfaces {
		e := Entry{
			Domain: d.Name(), Running: running, Interface: i.Alias, MAC: i.MAC, Port: -1, Socket: i.Socket, Shared: now.Memory.Shared, Features: []string{},
		}
		if e.Interface == "" {
			e.Interface = fmt.Sprintf("net%d", i.Index)
		}
		if e.examine(now, configured, i, ports) {
			list = append(list, e)
		}
	}
	return list, nil
}

func inspect(d libvirt.Domain, running bool) (domainxml.Domain, error) {
	text, err := d.XML(running)
	if err != nil {
		return domainxml.Domain{}, err
	}
	info, err := domainxml.Inspect(text)
	if err != nil {
		return info, fmt.Errorf("description of domain %s: %w", d.Name(), err)
	}
	return info, nil
}

// examine finds the interface's port. It returns false for an interface that has nothing to do with the switch.
func (e *Entry) examine(now, configured domainxml.Domain, i domainxml.Interface, ports []control.Port) bool {
	wrapped := strings.HasPrefix(filepath.Base(now.Emulator), "qemu-wrap")
	p := find(ports, e, i, wrapped)
	if p != nil {
		e.take(p)
		return true
	}
	attached := slices.ContainsFunc(configured.Ports, func(p domainxml.Port) bool { return strings.EqualFold(p.MAC, i.MAC) })
	switch {
	case i.Type == "vhostuser" && e.Running:
		e.Why = "no port of the switch has this socket and address: is it another switch's, or has the guest sent nothing yet?"
	case i.Type == "vhostuser" || wrapped && !e.Running:
		e.Why = whyStopped
	case attached:
		e.Why = "attached in the configuration only: stop the domain and start it again"
	case wrapped:
		e.Why = "qemu-wrap has not put it on the switch: its settings leave it out, or switchd was started anew and the domain was not"
	default:
		return false
	}
	return true
}

const whyStopped = "the domain does not run"

// find looks for an interface's port: that of its socket, or that which qemu-wrap asks for. What guests say of themselves, their addresses,
// decides only between ports that share a socket.
func find(ports []control.Port, e *Entry, i domainxml.Interface, wrapped bool) *control.Port {
	name := qemuwrap.PortName(e.Domain, "host"+e.Interface)
	for n := range ports {
		p := &ports[n]
		switch {
		case i.Type == "vhostuser" && p.Socket == i.Socket:
			if p.Name != "" || slices.Contains(p.MACs, i.MAC) {
				return p
			}
		case i.Type != "vhostuser" && wrapped && p.Name == name:
			return p
		}
	}
	return nil
}

// take fills in what the port says.
func (e *Entry) take(p *control.Port) {
	e.Port, e.PortName, e.PortState, e.Socket, e.Hex = p.ID, p.Name, p.State, p.Socket, p.FeaturesHex
	if p.Features != nil {
		e.Features = p.Features
	}
	e.Shared = e.Shared || len(p.Memory) > 0 // mapped: nothing proves it better
	e.Ready = e.Running && p.State == control.StateReady
	e.Why = e.why(p)
}

func (e *Entry) why(p *control.Port) string {
	switch {
	case !e.Running:
		return whyStopped
	case p.State == control.StateFailed:
		return "stopped: " + p.Error
	case p.State == control.StateDisconnected && !e.Shared:
		return "QEMU is not connected, and the memory is private: vhostctl attach " + e.Domain + " makes it shared"
	case p.State == control.StateDisconnected:
		return "QEMU is not connected: vhostctl doctor " + e.Domain + " looks for the reason"
	case p.State == control.StateConnected && !e.Shared:
		return "the memory is private: vhostctl attach " + e.Domain + " makes it shared"
	case p.State == control.StateConnected:
		return "the guest's driver has not started its rings"
	case p.State == control.StateLearning:
		return "the guest has sent nothing yet"
	case p.State == control.StateReady && !slices.Contains(p.MACs, e.MAC):
		return "the guest uses another address: " + strings.Join(p.MACs, " ")
	}
	return ""
}
