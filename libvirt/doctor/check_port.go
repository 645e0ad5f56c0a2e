package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"vhostkit/switchd/control"
	"vhostkit/switchd/control/names"
)

func portChecks() []Check {
	return []Check{
		{ID: "port-state", Group: "ports", Title: "the switch knows the guest (READY)", Scope: Domain, Run: onPorts(checkPortState)},
		{ID: "port-memory", Group: "ports", Title: "the switch has mapped the guest's memory", Scope: Domain, Run: onPorts(checkPortMemory)},
		{ID: "port-features", Group: "ports", Title: "what was negotiated is what was asked for", Scope: Domain, Run: onPorts(checkFeatures)},
		{ID: "port-mtu", Group: "ports", Title: "interface, port and uplink have one MTU", Scope: Domain, Run: onPorts(checkPortMTU)},
		{ID: "port-drops", Group: "ports", Title: "none of the guest's frames are being dropped", Scope: Domain, Run: onPorts(checkPortDrops)},
		{ID: "cores", Group: "ports", Title: "switch and guest do not share cores", Scope: Domain, Run: onDomain(checkCores)},
	}
}

// plugged is an interface with its port.
type plugged struct {
	label         string
	domain        *domain
	iface         netDevice
	before, after *control.Port // nil where the switch has none
	stats         control.Stats
}

// onPorts makes a check of each port of a running domain.
func onPorts(f func(*Env, plugged) Result) func(context.Context, *Env) Result {
	return onDomain(func(ctx context.Context, e *Env, d *domain) Result {
		before, after, err := e.readings(ctx)
		switch {
		case !d.Active:
			return notApplicable("the domain does not run")
		case err != nil:
			return notApplicable("switchd does not answer")
		}
		list := plugs(e, d, before, after)
		if len(list) == 0 {
			return notApplicable("no interface is on the switch")
		}
		var all []Result
		for _, p := range list {
			r := f(e, p)
			if r.Status != NotApplicable {
				r.Detail = p.label + ": " + r.Detail
			}
			all = append(all, r)
		}
		return merge(all...)
	})
}

// plugs finds the port of each interface: by address, then by the socket that no other interface has. The wrapper's interfaces name no
// socket; those of a process are found by its number.
func plugs(e *Env, d *domain, before, after control.Stats) []plugged {
	pid := -1
	if list, err := e.processes(); err == nil {
		if p, found := e.emulator(list, d.Name); found {
			pid = p.PID
		}
	}
	interfaces := d.now.onSwitch()
	if d.now.wrapped() {
		interfaces = d.now.Devices.Interfaces
	}
	var list []plugged
	for _, n := range interfaces {
		list = append(list, plugged{label: n.label(), domain: d, iface: n, after: findPort(after.Ports, n, pid), before: findPort(before.Ports, n, pid),
			stats: after})
	}
	return list
}

func findPort(ports []control.Port, n netDevice, pid int) *control.Port {
	mac := strings.ToLower(n.MAC.Address)
	var bySocket, byProcess *control.Port
	sockets, mine := 0, 0
	for i := range ports {
		p := &ports[i]
		if p.Stopped != nil && p.Name == "" { // gone: another has its socket, or none
			continue
		}
		if p.Peer != nil && pid >= 0 && p.Peer.PID != pid {
			continue
		}
		if mac != "" && slices.Contains(p.MACs, mac) {
			return p
		}
		if n.Source.Path != "" && p.Socket == n.Source.Path {
			bySocket = p
			sockets++
		}
		if p.Peer != nil && pid >= 0 {
			byProcess = p
			mine++
		}
	}
	switch {
	case sockets == 1:
		return bySocket
	case mine == 1 && n.Source.Path == "":
		return byProcess
	}
	return nil
}

func checkPortState(_ *Env, p plugged) Result {
	port := p.after
	if port == nil {
		return fail("vhostctl ports; virsh domiflist "+quote(p.domain.Name)+"; journalctl -u switchd -e", "no port of the switch belongs to it")
	}
	name := portLabel(*port)
	switch port.State {
	case control.StateReady:
		return ok("port %s, %s, VLAN %d", name, strings.Join(port.MACs, " "), port.VLAN)
	case control.StateLearning:
		return warn("in the guest: ip link set DEV up; arping -U -I DEV ADDRESS   # testpmd: start tx_first",
			"port %s: MAC not yet learned: the guest has sent no frame", name)
	case control.StateConnected:
		return warn("in the guest: load virtio_net (or bind the device to testpmd) and: ip link set DEV up",
			"port %s: connected, and the guest's driver has not started its queues%s", name, because(port.Reason))
	case control.StateFailed:
		return fail("reload the guest's driver, or restart the guest", "port %s was stopped: %s", name, port.Error)
	}
	return fail("journalctl -u switchd -e; virsh qemu-monitor-command --hmp "+quote(p.domain.Name)+" 'info network'   # without <reconnect>: restart the guest",
		"port %s: QEMU is not connected", name)
}

// because appends the switch's own reason; a switch of an older version gives none.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// running tells whether any of the port's rings runs.
func running(p *control.Port) bool {
	return slices.ContainsFunc(p.Queues, func(q control.Queue) bool { return q.RXRunning || q.TXRunning })
}

func checkPortMemory(_ *Env, p plugged) Result {
	if p.after == nil || p.after.Connected == nil {
		return notApplicable("not connected")
	}
	sum := uint64(0)
	for _, r := range p.after.Memory {
		sum += r.Size
	}
	want := p.domain.now.Memory.kib()
	switch {
	case sum == 0 && !running(p.after) && !strings.HasPrefix(p.after.Reason, names.WaitingNotShared):
		return notApplicable("the guest's driver has not started") // or has stopped: no ring, no memory
	case sum == 0:
		return fail("vhostctl attach "+quote(p.domain.Name)+"   # then stop and start it", "nothing is mapped: its memory is not shared")
	case sum>>10 < want:
		return warn("virsh edit "+quote(p.domain.Name)+"   # make every NUMA cell shared", "%d of %d MiB are mapped: a frame elsewhere stops the port", sum>>20, want>>10)
	}
	return ok("%d MiB in %d regions; the guest's own size of pages does not matter", sum>>20, len(p.after.Memory))
}

func checkFeatures(_ *Env, p plugged) Result {
	port := p.after
	if port == nil || len(port.Features) == 0 {
		return notApplicable("nothing was negotiated yet")
	}
	pairs := 0
	for _, q := range port.Queues {
		if q.TXRunning {
			pairs++
		}
	}
	want := p.iface.Driver.Queues
	switch {
	case want > 1 && pairs > 0 && pairs < want:
		return warn(fmt.Sprintf("in the guest: ethtool -L DEV combined %d   # and switchd --max-queue-pairs %d or more", want, want),
			"%d of %d queue pairs run", pairs, want)
	case p.iface.Driver.Packed == "on" && port.Ring != names.RingPacked:
		return warn("upgrade the guest's driver (Linux 5.0 or newer)", "packed='on', and the guest uses split rings")
	case !slices.Contains(port.Features, names.FeatureVersion1):
		return warn("boot the guest's OS (iPXE uses the legacy interface), or update its virtio driver", "the guest uses the legacy interface: slower, and without packed rings")
	}
	note := ""
	if !slices.Contains(port.ProtocolFeatures, names.ProtocolLogShmfd) {
		note = "; virsh save and live migration are refused (no LOG_SHMFD)"
	}
	return ok("%s rings, %d queue pairs%s", port.Ring, pairs, note)
}

func checkPortMTU(_ *Env, p plugged) Result {
	if p.after == nil || p.after.MTU == 0 {
		return notApplicable("not connected")
	}
	asked, u := p.iface.MTU.Size, p.stats.Uplink
	switch {
	case asked != 0 && asked != p.after.MTU:
		return warn(fmt.Sprintf("in the guest: ip link set DEV mtu %d   # and switchd --mtu %d", asked, asked), "<mtu size='%d'/>, and the port has %d",
			asked, p.after.MTU)
	case u.Driver != names.UplinkNone && u.Up && u.MTU < p.after.MTU:
		return warn(fmt.Sprintf("ip link set %s mtu %d", u.Name, p.after.MTU), "%d, and the uplink %s has %d", p.after.MTU, u.Name, u.MTU)
	}
	return ok("%d", p.after.MTU)
}

func checkPortDrops(_ *Env, p plugged) Result {
	if p.after == nil || p.before == nil {
		return notApplicable("not connected")
	}
	return judgeDrops(*p.before, *p.after)
}

// checkCores compares the workers' cores with those that the guest's CPUs are pinned to: a spinning worker and a CPU of the guest halve each other.
func checkCores(ctx context.Context, e *Env, d *domain) Result {
	_, stats, err := e.readings(ctx)
	if err != nil {
		return notApplicable("switchd does not answer")
	}
	var workers []int
	for _, w := range stats.Workers {
		if w.Core >= 0 {
			workers = append(workers, w.Core)
		}
	}
	var pins, both []int
	for _, p := range d.now.Pins {
		pins = append(pins, numberSet(p.CPU)...)
	}
	for _, c := range workers {
		if slices.Contains(pins, c) {
			both = append(both, c)
		}
	}
	switch {
	case len(workers) == 0:
		return ok("switchd's workers are not pinned")
	case len(pins) == 0:
		return ok("the guest's CPUs are not pinned; workers are on %v", workers)
	case len(both) > 0:
		return warn("switchd --cores with others, or virsh vcpupin "+quote(d.Name)+" CPU CORES", "cores %v have a worker and a CPU of the guest", both)
	}
	return ok("workers on %v, the guest elsewhere", workers)
}
