package daemon

import (
	"fmt"
	"slices"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/switchd/vhost/user"
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
	stopped []control.Port          // of shared sockets, oldest first
	named   map[string]control.Port // the last stopped device of named ports
}

func newHistory() history {
	return history{named: map[string]control.Port{}}
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
}

// lastRefusal is why a connection to a named port was refused lately; empty, if none was. The caller holds mu.
func (d *Daemon) lastRefusal(name string) string {
	s := d.sockets[d.socketOf(name)]
	if name == "" || s == nil {
		return ""
	}
	last := s.tally.Counts().Last
	if last == nil || last.Reason == user.ReasonFailed || time.Since(last.Time) > stoppedFor {
		return ""
	}
	return fmt.Sprintf("pid %d (%s): %s", last.Peer.PID, last.Peer.Comm, last.Error)
}

// enrich adds to a live named port what happened to the devices before it. The caller holds Daemon.mu.
func (h *history) enrich(p *control.Port, now time.Time, refusal string) {
	if p.Name == "" {
		return
	}
	if p.Connected != nil && now.Sub(*p.Connected) > provenAfter && p.State != control.StateFailed {
		delete(h.named, p.Name)
	}
	if before, ok := h.named[p.Name]; ok {
		p.LastError = before.Error
	}
	p.LastRefusal = refusal
}

// absent describes a named port without a device. The caller holds Daemon.mu.
func (h *history) absent(name, socket, refusal string) control.Port {
	p, failed := h.named[name]
	if !failed {
		p = disconnected(name, socket)
	}
	if p.LastRefusal = refusal; p.LastRefusal != "" && !failed {
		p.Reason = "the last connection was refused: " + p.LastRefusal
	}
	return p
}
