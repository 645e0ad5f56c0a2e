package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"vhostkit/switchd/control"
	"vhostkit/switchd/control/names"
)

func switchdChecks() []Check {
	return []Check{
		{ID: "switchd", Group: "switchd", Title: "switchd runs", Scope: Host, Run: checkSwitchd},
		{ID: "switchd-version", Group: "switchd", Title: "switchd and vhostctl are of one version", Scope: Host, Run: checkSwitchdVersion},
		{ID: "uplink", Group: "switchd", Title: "the uplink is up", Scope: Host, Run: onSwitch(checkUplink)},
		{ID: "ports-failed", Group: "switchd", Title: "no port was stopped", Scope: Host, Run: onSwitch(checkFailed)},
		{ID: "ports-mtu", Group: "switchd", Title: "the ports have one MTU", Scope: Host, Run: onSwitch(checkMTUs)},
		{ID: "budgets", Group: "switchd", Title: "there is room for more guests", Scope: Host, Run: onSwitch(checkBudgets)},
		{ID: "drops", Group: "switchd", Title: "no frames are being dropped", Scope: Host, Run: onSwitch(checkDrops)},
	}
}

// onSwitch makes a check of what needs switchd's counters; that switchd does not run is said once, by the first.
func onSwitch(f func(before, after control.Stats) Result) func(context.Context, *Env) Result {
	return func(ctx context.Context, e *Env) Result {
		before, after, err := e.readings(ctx)
		if err != nil {
			return notApplicable("switchd does not answer")
		}
		return f(before, after)
	}
}

func checkSwitchd(ctx context.Context, e *Env) Result {
	if e.Switch == nil {
		return unknown("no control socket is known")
	}
	v, err := e.Switch.Version(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return unknown("%v", err)
	case errors.Is(err, control.ErrUnreachable):
		return fail("systemctl start switchd", "%v", err)
	case err != nil:
		return fail("journalctl -u switchd -e", "%v", err)
	}
	return ok("pid %d since %s", v.PID, v.Started.Local().Format("2006-01-02 15:04:05"))
}

func checkSwitchdVersion(ctx context.Context, e *Env) Result {
	if e.Switch == nil {
		return notApplicable("switchd does not answer")
	}
	v, err := e.Switch.Version(ctx)
	switch {
	case err != nil:
		return notApplicable("switchd does not answer")
	case v.Version != e.Version:
		return warn("systemctl restart switchd   # guests reconnect", "switchd is %s, vhostctl is %s", v.Version, e.Version)
	}
	return ok("%s", v.Version)
}

func checkUplink(before, after control.Stats) Result {
	u := after.Uplink
	rising := func(a, b uint64) bool { return b > a }
	switch {
	case u.Driver == names.UplinkNone || u.Driver == "":
		return notApplicable("the switch has none: guests reach each other only")
	case !u.Up:
		return fail("ip link set "+u.Name+" up", "%s (%s) is down", u.Name, u.Driver)
	case !u.Carrier:
		return warn("check the cable and the other end: ip -s link show "+u.Name, "%s (%s) has no carrier", u.Name, u.Driver)
	case rising(before.Uplink.Down+before.Uplink.Full, u.Down+u.Full):
		return warn("ip -s link show "+u.Name, "%s loses frames now: %d had no room, %d found it down", u.Name, u.Full, u.Down)
	case rising(before.Uplink.Truncated+before.Uplink.Rejected, u.Truncated+u.Rejected):
		return warn(fmt.Sprintf("ip link set %s mtu %d   # or switchd --mergeable 1", u.Name, u.MTU),
			"%s loses frames now: %d too long, %d with senseless offload requests", u.Name, u.Truncated, u.Rejected)
	}
	return ok("%s (%s), MTU %d", u.Name, u.Driver, u.MTU)
}

// portLabel names a port in messages and for vhostctl port show.
func portLabel(p control.Port) string {
	if p.Name != "" {
		return p.Name
	}
	return fmt.Sprint(p.ID)
}

func checkFailed(_, after control.Stats) Result {
	var all []Result
	for _, p := range after.Ports {
		if p.State == control.StateFailed {
			all = append(all, fail("reload the guest's driver, or restart the guest", "port %s: %s", portLabel(p), p.Error))
		}
	}
	if len(all) == 0 {
		return ok("%d ports", len(after.Ports))
	}
	return merge(all...)
}

func checkMTUs(_, after control.Stats) Result {
	by := map[int][]string{}
	for _, p := range after.Ports {
		if p.MTU > 0 && p.Connected != nil {
			by[p.MTU] = append(by[p.MTU], portLabel(p))
		}
	}
	if u := after.Uplink; u.Driver != names.UplinkNone && u.MTU > 0 && len(by) > 0 {
		by[u.MTU] = append(by[u.MTU], "uplink "+u.Name)
	}
	switch len(by) {
	case 0:
		return notApplicable("no port is connected")
	case 1:
		return ok("%d", slices.Collect(maps.Keys(by))[0])
	}
	var parts []string
	for _, mtu := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("%d: %s", mtu, strings.Join(by[mtu], " ")))
	}
	return warn("give all guests one MTU: <mtu size='1500'/> in each <interface>; in the guest: ip link set DEV mtu 1500",
		"long frames will not pass between ports of different MTU (%s)", strings.Join(parts, "; "))
}

// remedies are what to do about frames that are dropped for a reason.
var remedies = map[string]string{
	"ring_full":      "the receiver is too slow: larger rings (rx_queue_size='1024' in <driver>), more queues, switchd --rx-retry-num 16, or a free core for it",
	"ring_busy":      "a worker of the switch hangs or has no processor: give the workers cores of their own (--cores)",
	"too_small":      "give sender and receiver one MTU; jumbo frames need switchd --mergeable 1",
	"not_ready":      "bring the receiving guest's interface up: ip link set DEV up",
	"fault":          "the guest's driver broke the rules, or its memory went away: see switchd's log",
	"mac_duplicate":  "two guests use one MAC address: change <mac address=> of one of them",
	"mac_limit":      "the guest sends from many addresses (a bridge inside?): switchd --mac-limit N",
	"no_destination": "nobody has that address yet: let the receiver send something, or give the switch an uplink (--uplink)",
	"no_uplink":      "with --vm2vm 0 all frames are for outside, and the switch has no uplink: switchd --uplink tap:vhk0",
	"uplink_full":    "the uplink is saturated: more --uplink-queues, or less traffic",
	"foreign_vlan":   "the guest tags its frames with another port's VLAN: use its own, or none",
	"own_address":    "the guest sends to itself: a loop in its bridge or routes",
	"runt":           "the guest sends broken frames: see its driver",
	"oversized":      "the guest's MTU is larger than the switch's: ip link set DEV mtu 1500, or switchd --mtu, --mergeable 1",
	"bad_header":     "the guest's driver gives no room for the virtio header, or asks for segmentation that it did not negotiate: upgrade it",
	"bad_source":     "the guest sends from a group or zero address: see its bridge or packet generator",
}

// rising tells which drop counters of a port grew between two readings of the same connection.
func rising(before, after control.Port) map[string]uint64 {
	old, grown := map[string]uint64{}, map[string]uint64{}
	if before.Connected != nil && after.Connected != nil && before.Connected.Equal(*after.Connected) {
		old = dropsOf(before)
	}
	if before.Connected == nil {
		return grown
	}
	for reason, n := range dropsOf(after) {
		if n > old[reason] {
			grown[reason] = n - old[reason]
		}
	}
	return grown
}

func dropsOf(p control.Port) map[string]uint64 {
	sum := map[string]uint64{}
	for _, q := range p.Queues {
		for reason, n := range q.RX.Drops {
			sum["rx "+reason] += n
		}
		for reason, n := range q.TX.Drops {
			sum["tx "+reason] += n
		}
	}
	return sum
}

func checkDrops(before, after control.Stats) Result {
	var all []Result
	for _, p := range after.Ports {
		i := slices.IndexFunc(before.Ports, func(o control.Port) bool { return o.ID == p.ID && o.ID >= 0 && p.Stopped == nil })
		if i >= 0 {
			all = append(all, judgeDrops(before.Ports[i], p))
		}
	}
	if len(all) == 0 {
		return notApplicable("no port is connected")
	}
	return merge(all...)
}

func judgeDrops(before, after control.Port) Result {
	grown := rising(before, after)
	if len(grown) == 0 {
		return ok("no drop counter rises")
	}
	var parts, fixes []string
	for _, reason := range sortedKeys(grown) {
		parts = append(parts, fmt.Sprintf("%s +%d", reason, grown[reason]))
		if fix := remedies[reason[len("rx "):]]; fix != "" {
			fixes = append(fixes, reason+": "+fix)
		}
	}
	return warn(strings.Join(fixes, "\n"), "port %s: %s", portLabel(after), strings.Join(parts, ", "))
}
