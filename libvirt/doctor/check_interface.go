package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"vhostkit/internal/host"
)

func interfaceChecks() []Check {
	each := func(f func(context.Context, *Env, *domain, netDevice) Result) func(context.Context, *Env) Result {
		return onDomain(func(ctx context.Context, e *Env, d *domain) Result {
			var all []Result
			for _, n := range d.next.onSwitch() {
				r := f(ctx, e, d, n)
				if r.Status != NotApplicable {
					r.Detail = n.label() + ": " + r.Detail
				}
				all = append(all, r)
			}
			if len(all) == 0 {
				return notApplicable("no such interface")
			}
			return merge(all...)
		})
	}
	return []Check{
		{ID: "interface-model", Group: "interfaces", Title: "interfaces are virtio", Scope: Domain, Run: each(checkModel)},
		{ID: "interface-reconnect", Group: "interfaces", Title: "interfaces come back after a restart of switchd", Scope: Domain, Run: each(checkReconnect)},
		{ID: "interface-mode", Group: "interfaces", Title: "QEMU connects to the switch, not the switch to QEMU", Scope: Domain, Run: each(checkMode)},
		{ID: "interface-offloads", Group: "interfaces", Title: "offloads are off where nobody offers them", Scope: Domain, Run: each(checkOffloads)},
		{ID: "socket-path", Group: "interfaces", Title: "socket paths fit", Scope: Domain, Run: each(checkSocketPath)},
		{ID: "socket-access", Group: "interfaces", Title: "QEMU's user reaches the sockets", Scope: Domain, Run: each(checkSocketAccess)},
	}
}

func (n netDevice) reconnects() bool {
	return n.Source.Reconnect != nil && n.Source.Reconnect.Enabled == "yes"
}

func checkModel(_ context.Context, _ *Env, d *domain, n netDevice) Result {
	if strings.HasPrefix(n.Model.Type, "virtio") {
		return ok("%s", n.Model.Type)
	}
	return fail("virsh edit "+quote(d.Name)+"   # <model type='virtio'/>", "model %q cannot be on the switch: it is no virtio device", n.Model.Type)
}

func checkReconnect(_ context.Context, _ *Env, d *domain, n netDevice) Result {
	if !n.vhostUser() || n.Source.Mode == "server" {
		return notApplicable("QEMU does not connect")
	}
	if n.reconnects() {
		return ok("reconnects")
	}
	return warn("virsh edit "+quote(d.Name)+"   # <reconnect enabled='yes' timeout='1'/> in <source>; then stop and start it",
		"no <reconnect>: when switchd restarts, the guest's network is dead until the guest restarts")
}

func checkMode(_ context.Context, _ *Env, d *domain, n netDevice) Result {
	if !n.vhostUser() {
		return notApplicable("no socket")
	}
	if n.Source.Mode != "server" {
		return ok("mode='client'")
	}
	return warn("virsh edit "+quote(d.Name)+"   # mode='client' in <source>; or start switchd with --client --socket-file "+quote(n.Source.Path),
		"mode='server': the guest's start and every hot plug hang until a switch connects")
}

// checkOffloads: over vhost-user QEMU and switch negotiate, so an offload that is left on costs nothing. Over vhost-cuse QEMU believes that
// the tap behind it does the work.
func checkOffloads(_ context.Context, _ *Env, d *domain, n netDevice) Result {
	h, g := n.Driver.Host, n.Driver.Guest
	off := h != nil && g != nil && h.off(h.Csum, h.GSO) && g.off(g.Csum, g.TSO4, g.TSO6, g.ECN)
	switch {
	case off:
		return ok("off")
	case n.vhostUser():
		return ok("on in the XML, harmless: the guest gets only what the switch offers (--tx-csum, --tso)")
	}
	return warn("virsh edit "+quote(d.Name)+"   # <host csum='off' gso='off'/><guest csum='off' tso4='off' tso6='off' ecn='off'/> in <driver>; or start it by qemu-wrap",
		"offloads are on: the guest may send frames without checksums, which nobody completes over vhost-cuse")
}

func checkSocketPath(_ context.Context, _ *Env, d *domain, n netDevice) Result {
	switch length := len(n.Source.Path); {
	case !n.vhostUser():
		return notApplicable("no socket")
	case length == 0:
		return fail("vhostctl attach "+quote(d.Name), "no socket is named")
	case length > host.MaxSocketPath:
		return fail("virsh edit "+quote(d.Name)+"   # a shorter path, such as those of vhostctl port add", "%d bytes, and %d are possible: %s", length,
			host.MaxSocketPath, n.Source.Path)
	}
	return ok("%s", n.Source.Path)
}

func checkSocketAccess(ctx context.Context, e *Env, d *domain, n netDevice) Result {
	if !n.vhostUser() || n.Source.Path == "" || n.Source.Mode == "server" {
		return notApplicable("no socket of the switch")
	}
	info, err := e.Files.Stat(n.Source.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail("systemctl start switchd; vhostctl ports; vhostctl attach "+quote(d.Name),
			"%s is not there: the domain's start waits for it, hot plug fails", n.Source.Path)
	case err != nil:
		return unknown("%v", err)
	case info.Mode&fs.ModeSocket == 0:
		return fail("remove it and restart switchd", "%s is no socket", n.Source.Path)
	}
	who, err := e.qemuUser(ctx)
	if err != nil {
		return unknown("%v", err)
	}
	const connect = 2 // unix(7): write permission on the socket
	fix, err := reach(e.Files, n.Source.Path, who, connect)
	if err != nil && fix == "" {
		return unknown("%v", err)
	}
	if err != nil {
		return fail(fix+fmt.Sprintf("   # lasting: switchd --socket-group, or vhostctl attach %s", quote(d.Name)), "Permission denied at the start: %v", err).
			from(who.Source)
	}
	return ok("open to %s", who.Name).from(who.Source)
}
