package switchd

import (
	"slices"
	"time"

	"vhostkit/switchd/control"
)

// What is shown of devices that are gone: one that was stopped for an error, so that an operator who looks later sees why.
const (
	keptStopped = 64               // devices of shared sockets
	stoppedFor  = 10 * time.Minute // how long each is listed
	// provenAfter is how long a device on a named port has to run before the error of the one before it is forgotten: a guest that is stopped
	// again a second after each new connection must not look well.
	provenAfter = time.Minute
)

// history is what the daemon remembers; Daemon.mu.
type history struct {
	stopped  []control.Port          // of shared sockets, oldest first
	named    map[string]control.Port // the last stopped device of named ports
	refusals map[string]string       // why a connection to a named port was refused last
}

func newHistory() history {
	return history{named: map[string]control.Port{}, refusals: map[string]string{}}
}

// keep remembers a stopped device as it was. The caller holds Daemon.mu.
func (h *history) keep(p control.Port, now time.Time) {
	p.State, p.Stopped, p.Connected, p.Workers, p.Memory = control.StateFailed, &now, nil, []int{}, []control.MemoryRegion{}
	if p.Name != "" {
		p.ID = -1
		h.named[p.Name] = p
		return
	}
	if h.stopped = append(h.stopped, p); len(h.stopped) > keptStopped {
		h.stopped = slices.Delete(h.stopped, 0, len(h.stopped)-keptStopped)
	}
}

// recent lists the stopped devices of shared sockets. The caller holds Daemon.mu.
func (h *history) recent(now time.Time) []control.Port {
	h.stopped = slices.DeleteFunc(h.stopped, func(p control.Port) bool { return now.Sub(*p.Stopped) > stoppedFor })
	return slices.Clone(h.stopped)
}

// forget drops what is known of a named port.
func (h *history) forget(name string) {
	delete(h.named, name)
	delete(h.refusals, name)
}

// noteRefusal remembers why a connection to a named port was refused, for `vhostctl ports`. The port's next orderly device ends that.
func (d *Daemon) noteRefusal(name, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.history.refusals[name] = reason
}

// enrich adds to a live named port what happened to the devices before it. The caller holds Daemon.mu.
func (h *history) enrich(p *control.Port, now time.Time) {
	if p.Name == "" {
		return
	}
	if p.Connected != nil && now.Sub(*p.Connected) > provenAfter && p.State != control.StateFailed {
		delete(h.named, p.Name)
	}
	if before, ok := h.named[p.Name]; ok {
		p.LastError = before.Error
	}
	p.LastRefusal = h.refusals[p.Name]
}

// absent describes a named port without a device. The caller holds Daemon.mu.
func (h *history) absent(name, socket string) control.Port {
	p, failed := h.named[name]
	if !failed {
		p = control.Port{
			ID: -1, Name: name, Socket: socket, Transport: "vhost-user", State: control.StateDisconnected,
			MACs: []string{}, Workers: []int{}, Features: []string{}, ProtocolFeatures: []string{}, Memory: []control.MemoryRegion{},
			Queues: []control.Queue{}, Reason: "no front-end is connected",
		}
	}
	if p.LastRefusal = h.refusals[name]; p.LastRefusal != "" && !failed {
		p.Reason = "the last connection was refused: " + p.LastRefusal
	}
	return p
}
