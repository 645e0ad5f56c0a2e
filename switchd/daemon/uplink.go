package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"vhostkit/switchd/config"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/tap"
)

// openUsableUplink opens what --uplink names and closes it again if it cannot do what other options want of it; nil is none.
func openUsableUplink(c config.Config, log *slog.Logger) (uplink.Uplink, error) {
	u, err := openUplink(c, log)
	if err != nil {
		return nil, err
	}
	if c.VM2VM == int(forward.VM2VMHardware) && uplink.Pools(u) == 0 {
		err = fmt.Errorf("--vm2vm 2 lets the NIC's own switch loop frames back, and uplink %q has none: use --vm2vm 1, or an 82599", c.Uplink)
	}
	if _, ok := u.(uplink.DMAMapper); err == nil && c.ZeroCopy && !ok {
		err = fmt.Errorf("--zero-copy 1 lets a card read frames from guests' memory, and uplink %q is none: leave it out, or use an 82599", c.Uplink)
	}
	if err != nil && u != nil {
		err = errors.Join(err, u.Close())
	}
	if err != nil {
		return nil, err
	}
	return u, nil
}

// openUplink opens what --uplink names; nil is none.
func openUplink(c config.Config, log *slog.Logger) (uplink.Uplink, error) {
	kind, name, _ := strings.Cut(c.Uplink, ":")
	if kind == config.UplinkIXGBE {
		return openNIC(c, name, log)
	}
	if kind != "tap" {
		return nil, nil
	}
	if name == "" {
		name = "vhk%d"
	}
	queues := c.UplinkQueues
	if queues == 0 {
		queues = len(c.Cores)
	}
	mtu := c.MTU
	if c.Mergeable {
		mtu = max(mtu, forward.JumboFrame-ether.HeaderLen-2*ether.TagLen)
	}
	t, err := tap.Open(tap.Config{Name: name, Queues: queues, MTU: mtu})
	if err != nil {
		return nil, err
	}
	log.Info("uplink open", "interface", t.Name(), "driver", t.Driver(), "queues", t.Queues(), "mtu", mtu)
	return t, nil
}
