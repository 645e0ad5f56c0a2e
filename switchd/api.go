package switchd

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/vhost/user"
	"vhostkit/switchd/virtio"
)

// Version is set by the linker.
var Version = "devel"

// Version tells what runs.
func (d *Daemon) Version() control.VersionInfo {
	return control.VersionInfo{Version: Version, Go: runtime.Version(), PID: os.Getpid(), Started: d.started,
		SocketDir: d.config.SocketDir}
}

// Ports lists connected devices by identifier, then the named ports that have none.
func (d *Daemon) Ports() []control.Port {
	d.mu.Lock()
	plugged := map[int]*plug{}
	for id, p := range d.plugged {
		plugged[id] = p
	}
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
	names := make([]string, 0, len(waiting))
	for name := range waiting {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		list = append(list, disconnected(name, waiting[name]))
	}
	return list
}

// disconnected describes a named port that waits for a device.
func disconnected(name, socket string) control.Port {
	return control.Port{
		ID: -1, Name: name, Socket: socket, Transport: "vhost-user", State: control.StateDisconnected,
		MACs: []string{}, Workers: []int{}, Features: []string{}, ProtocolFeatures: []string{}, Memory: []control.MemoryRegion{},
		Queues: []control.Queue{},
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
func (p *plug) describe(st forward.PortStats) control.Port {
	p.mu.Lock()
	u, mtu, memory := p.update, p.mtu, p.memory
	p.mu.Unlock()
	c := p.connection
	port := control.Port{
		ID: st.ID, Name: c.Name, Socket: c.Socket, Transport: c.Transport, State: state(st), MACs: []string{}, VLAN: st.VLAN,
		Workers: append([]int{}, st.Workers...), Connected: &p.since,
		Peer:     &control.Peer{PID: c.Peer.PID, UID: c.Peer.UID, GID: c.Peer.GID, Comm: c.Peer.Comm},
		Features: append([]string{}, u.Features.Names()...), FeaturesHex: fmt.Sprintf("%#x", uint64(u.Features)),
		ProtocolFeatures: append([]string{}, user.ProtocolFeatureNames(u.ProtocolFeatures)...), Ring: "split",
		Memory: append([]control.MemoryRegion{}, memory...), MTU: mtu, Queues: []control.Queue{},
	}
	if u.Features.Has(virtio.VIRTIO_F_RING_PACKED) {
		port.Ring = "packed"
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

func state(st forward.PortStats) string {
	switch {
	case st.Failure != nil:
		return control.StateFailed
	case st.Ready:
		return control.StateReady
	case st.RXRings+st.TXRings > 0:
		return control.StateLearning
	}
	return control.StateConnected
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
		list = append(list, control.FDBEntry{MAC: a.MAC.String(), Port: a.Port, VLAN: a.VLAN, AgeSeconds: int(a.Age / time.Second)})
	}
	return list
}

// Stats gives all counters.
func (d *Daemon) Stats() control.Stats {
	s := control.Stats{UptimeSeconds: time.Since(d.started).Seconds(), Ports: d.Ports(), Workers: []control.Worker{}}
	s.Uplink = control.UplinkStats{Name: "none", Driver: "none"}
	if d.uplink != nil {
		s.Uplink.Name, s.Uplink.Driver = d.uplink.Name(), d.uplink.Driver()
		if link, err := d.uplink.Link(); err == nil {
			s.Uplink.Up, s.Uplink.Carrier, s.Uplink.MTU = link.Up, link.Carrier, link.MTU
		}
		lost := d.uplink.Stats()
		s.Uplink.Full, s.Uplink.Down, s.Uplink.Rejected, s.Uplink.Truncated = lost.Full, lost.Down, lost.Rejected, lost.Truncated
		s.Uplink.Missed, s.Uplink.Broken, s.Uplink.Spoofed, s.Uplink.Discarded = lost.Missed, lost.Broken, lost.Spoofed, lost.Discarded
		s.Uplink.WireRX, s.Uplink.WireTX, s.Uplink.Lent, s.Uplink.Pools = lost.WireRx, lost.WireTx, lost.Lent, d.uplink.Pools()
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
