package daemon

import (
	"fmt"
	"sync"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost"
	"vhostkit/switchd/virtio"
)

// adapter connects a vhost device to a port of the switch, which do not know each other, and remembers what vhostctl shows of it.
type adapter struct {
	daemon     *Daemon
	port       *forward.Port
	connection vhost.Connection
	since      time.Time

	mu      sync.Mutex
	update  vhost.Update
	memory  []control.MemoryRegion // of update.Memory, which may be closed by the time somebody asks
	mtu     int
	waiting string       // why no ring runs
	gone    bool         // Close has been called
	failure error        // why the device was stopped
	last    control.Port // as it was when it was closed
}

// Connect gives a device a port. A named port takes one device at a time.
func (d *Daemon) Connect(c vhost.Connection) (vhost.Port, error) {
	p := &adapter{daemon: d, connection: c, since: time.Now(), mtu: d.config.MTU, waiting: notStarted}
	if err := d.reserve(p); err != nil {
		return nil, err
	}
	port, err := d.sw.AddPort(c.Fail) // may have to wait for the workers: nothing is locked
	if err != nil {
		d.release(p)
		return nil, err
	}
	p.port = port
	d.mu.Lock()
	d.plugged[port.ID()] = p
	d.mu.Unlock()
	return p, nil
}

// reserve takes the name of a named port for a device.
func (d *Daemon) reserve(p *adapter) error {
	c := p.connection
	if c.Name == "" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if other := d.byName[c.Name]; other != nil {
		return fmt.Errorf("port %q is in use by pid %d (user %d); a named port takes one device at a time", c.Name, other.connection.Peer.PID,
			other.connection.Peer.UID)
	}
	d.byName[c.Name] = p
	d.markUsed(c.Name)
	return nil
}

// release gives the name back, if it is still the device's.
func (d *Daemon) release(p *adapter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.port != nil && d.plugged[p.port.ID()] == p {
		delete(d.plugged, p.port.ID())
	}
	if name := p.connection.Name; name != "" && d.byName[name] == p {
		delete(d.byName, name)
		d.markUsed(name)
	}
}

// markUsed notes that a named port is of use. The caller holds mu.
func (d *Daemon) markUsed(name string) {
	if n := d.named[name]; n != nil {
		now := time.Now()
		n.Used = &now
	}
}

// notStarted is why a device that has just connected is not READY.
const notStarted = "driver not started (the front-end has sent nothing yet)"

// ID is the port's identifier.
func (p *adapter) ID() int { return int(p.port.ID()) }

// Update passes the rings on.
func (p *adapter) Update(u vhost.Update) {
	memory := []control.MemoryRegion{}
	if u.Memory != nil {
		for _, r := range u.Memory.Regions() {
			memory = append(memory, control.MemoryRegion{GuestPhysAddr: r.GuestPhysAddr, Size: r.Size})
		}
	}
	p.mu.Lock()
	p.update, p.memory = u, memory
	p.mu.Unlock()
	p.port.Update(u.Rings, u.Features, u.Memory)
}

// Touch touches guest memory.
func (p *adapter) Touch(f func()) *guestmem.Fault { return p.port.Touch(f) }

// Announce passes the address on.
func (p *adapter) Announce(mac [6]byte) { p.port.Announce(ether.FromBytes(mac)) }

// SetMTU accepts what fits the switch's frames.
func (p *adapter) SetMTU(mtu int) error {
	if limit := p.daemon.maxMTU(); mtu > limit {
		return fmt.Errorf("MTU %d is more than the switch carries (%d; larger with --mergeable 1)", mtu, limit)
	}
	p.mu.Lock()
	p.mtu = mtu
	p.mu.Unlock()
	return nil
}

// Quiesce waits for the workers.
func (p *adapter) Quiesce(q *virtio.Queue) { p.port.Quiesce(q) }

// Waiting remembers why no ring runs.
func (p *adapter) Waiting(reason string) {
	p.mu.Lock()
	p.waiting = reason
	p.mu.Unlock()
}

// Stopped has the device listed as FAILED after it is gone.
func (p *adapter) Stopped(err error) {
	p.mu.Lock()
	p.failure = err
	gone := p.gone
	p.mu.Unlock()
	if gone {
		p.remember()
	}
}

// Close gives the port back.
func (p *adapter) Close() {
	last := p.describe(p.port.Stats())
	p.daemon.release(p)
	p.port.Close()
	p.mu.Lock()
	p.update, p.gone, p.last = vhost.Update{}, true, last
	failed := p.failure != nil
	p.mu.Unlock()
	if failed {
		p.remember()
	} else if p.connection.Name != "" {
		p.daemon.mu.Lock()
		p.daemon.history.forget(p.connection.Name)
		p.daemon.mu.Unlock()
	}
}

// remember leaves the stopped device behind in the daemon's history.
func (p *adapter) remember() {
	p.mu.Lock()
	last := p.last
	last.Error, last.Reason = p.failure.Error(), ""
	p.mu.Unlock()
	p.daemon.mu.Lock()
	p.daemon.history.keep(last, time.Now())
	p.daemon.mu.Unlock()
}

func (d *Daemon) maxMTU() int { return maxFrame(d.config) - ether.HeaderLen - 2*ether.TagLen }
