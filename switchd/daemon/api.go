package daemon

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"time"

	"vhostkit/internal/version"
	"vhostkit/switchd/control"
	"vhostkit/switchd/control/names"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/vhost/user"
	"vhostkit/switchd/virtio"
)

// Version tells what runs.
func (d *Daemon) Version() control.VersionInfo {
	return control.VersionInfo{Version: version.Version, Go: runtime.Version(), PID: os.Getpid(), Started: d.started,
		SocketDir: d.config.SocketDir}
}

// Ports lists connected devices by identifier, then the named ports that have none, then devices of shared sockets that were stopped a short
// while ago.
func (d *Daemon) Ports() []control.Port {
	d.mu.Lock()
	plugged := maps.Clone(d.plugged)
	waiting := map[string]string{}
	for name := range d.named {
		waiting[name] = d.socketOf(name)
	}
	d.mu.Unlock()
	list := []control.Port{}
	for _, st := range d.sw.Ports() {
		if p := plugged[st.ID]; p != nil {
			list = append(list, p.describe(st))
			delete(waiting, p.connection.Name)
		}
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range list {
		d.history.enrich(&list[i], now, d.lastRefusal(list[i].Name))
	}
	for _, name := range slices.Sorted(maps.Keys(waiting)) {
		list = append(list, d.history.absent(name, waiting[name], d.lastRefusal(name)))
	}
	return append(list, d.history.recent(now)...)
}

// disconnected describes a named port that waits for a device.
func disconnected(name, socket string) control.Port {
	return control.Port{
		ID: -1, Name: name, Socket: socket, Transport: "vhost-user", State: control.StateDisconnected,
		MACs: []string{}, Workers: []int{}, Features: []string{}, ProtocolFeatures: []string{}, Memory: []control.MemoryRegion{},
		Queues: []control.Queue{}, Reason: "no front-end is connected",
	}
}

func (d *Daemon) portByName(name string) (control.Port, error) {
	d.mu.Lock()
	connected := d.byName[name] != nil
	d.mu.Unlock()
	if !connected { // as at every start of a guest: not worth describing all others
		return disconnected(name, d.socketOf(name)), nil
	}
	return control.FindPort(d.Ports(), name)
}

// describe puts together what the switch and the device know of a port.
func (p *adapter) describe(st forward.PortStats) control.Port {
	p.mu.Lock()
	u, mtu, memory, waiting := p.update, p.mtu, p.memory, p.waiting
	p.mu.Unlock()
	c := p.connection
	port := control.Port{
		ID: int(st.ID), Name: c.Name, Socket: c.Socket, Transport: c.Transport, MACs: []string{}, VLAN: int(st.VLAN),
		Workers: append([]int{}, st.Workers...), Connected: &p.since,
		Peer:     &control.Peer{PID: c.Peer.PID, UID: c.Peer.UID, GID: c.Peer.GID, Comm: c.Peer.Comm},
		Features: append([]string{}, u.Features.Names()...), FeaturesHex: fmt.Sprintf("%#x", uint64(u.Features)),
		ProtocolFeatures: append([]string{}, user.ProtocolFeatureNames(u.ProtocolFeatures)...), Ring: names.RingSplit,
		Memory: append([]control.MemoryRegion{}, memory...), MTU: mtu, Queues: []control.Queue{},
	}
	port.State, port.Reason = state(st, waiting)
	if u.Features.Has(virtio.VIRTIO_F_RING_PACKED) {
		port.Ring = names.RingPacked
	}
	if st.Failure != nil {
		port.Error = st.Failure.Error()
	}
	for _, mac := range st.MACs {
		port.MACs = append(port.MACs, mac.String())
	}
	for i, pair := range st.Pairs {
		q := control.Queue{Pair: i, RX: queueStats(pair.RX), TX: queueStats(pair.TX)}
		if r := u.Rings; len(r) > 2*i+1 {
			if r[2*i] != nil {
				q.RXSize, q.RXRunning = r[2*i].Size(), true
			}
			if r[2*i+1] != nil {
				q.TXSize, q.TXRunning = r[2*i+1].Size(), true
			}
		}
		if used := q.RXRunning || q.TXRunning || q.RX.Packets+q.TX.Packets+q.RX.Dropped+q.TX.Dropped > 0; used {
			port.Queues = append(port.Queues, q)
		}
	}
	return port
}

// state tells how far a device has come, and what is missing. An address stays known for a while when its driver has gone: without a ring that is
// worth nothing.
func state(st forward.PortStats, waiting string) (state, reason string) {
	switch {
	case st.Failure != nil:
		return control.StateFailed, st.Failure.Error()
	case st.RXRings+st.TXRings == 0:
		if waiting == "" {
			waiting = "driver not started (no ring runs)"
		}
		return control.StateConnected, waiting
	case st.Ready:
		return control.StateReady, ""
	case st.TXRings == 0:
		return control.StateLearning, "no transmit ring runs, so the guest's address is unknown"
	}
	return control.StateLearning, "no frame yet: the guest has sent none, so its address is unknown"
}

func queueStats(s forward.QueueStats) control.QueueStats {
	return control.QueueStats{
		Packets: s.Packets, Bytes: s.Bytes, Delivered: s.Delivered, Copies: s.Copies, Dropped: s.Dropped(), Drops: s.Drops, Retries: s.Retries, Kicks: s.Kicks,
		Calls: s.Calls,
	}
}

// FDB lists the address table.
func (d *Daemon) FDB() []control.FDBEntry {
	list := []control.FDBEntry{}
	for _, a := range d.sw.Addresses() {
		list = append(list, control.FDBEntry{MAC: a.MAC.String(), Port: int(a.Port), VLAN: int(a.VLAN), AgeSeconds: int(a.Age / time.Second)})
	}
	return list
}

// Stats gives all counters.
func (d *Daemon) Stats() control.Stats {
	s := control.Stats{UptimeSeconds: time.Since(d.started).Seconds(), Ports: d.Ports(), Workers: []control.Worker{}}
	s.Uplink = control.UplinkStats{Name: names.UplinkNone, Driver: names.UplinkNone}
	if d.uplink != nil {
		s.Uplink.Name, s.Uplink.Driver = d.uplink.Name(), d.uplink.Driver()
		if link, err := d.uplink.Link(); err == nil {
			s.Uplink.Up, s.Uplink.Carrier, s.Uplink.MTU = link.Up, link.Carrier, link.MTU
		}
		s.Uplink.Pools = uplink.Pools(d.uplink)
		var counters []control.Counter
		for _, c := range d.uplink.Counters() {
			counters = append(counters, control.Counter(c))
		}
		s.Uplink.SetCounters(counters)
	}
	s.Runtime, s.Budgets = runtimeStats(), budgets(d.budget)
	d.mu.Lock()
	for _, server := range d.servers {
		r := server.Requests()
		s.Requests.Accepted += r.Accepted
		s.Requests.Waited += r.Waited
		s.Requests.Refused += r.Refused
	}
	d.mu.Unlock()
	s.EventsLost = d.sw.EventsLost()
	rx, tx := d.sw.UplinkStats()
	s.Uplink.RX, s.Uplink.TX = queueStats(rx), queueStats(tx)
	gone := d.sw.Gone()
	s.Gone, s.Own = control.PairStats{RX: queueStats(gone.RX), TX: queueStats(gone.TX)}, queueStats(d.sw.Own())
	for _, w := range d.sw.Workers() {
		s.Workers = append(s.Workers, control.Worker{
			Index: w.Index, Core: w.Core, Polls: w.Rounds, EmptyPolls: w.Empty, Sleeps: w.Sleeps, Wakeups: w.Wakeups,
			BusySeconds: w.Busy.Seconds(), Rings: w.Rings,
		})
	}
	return s
}
