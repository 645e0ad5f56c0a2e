package daemon

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// tell tells the service manager, if one started us (sd_notify(3)).
func (d *Daemon) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Warn("telling the service manager", "state", state, "error", err)
	}
}

// keepAlive tells the service manager's watchdog that the workers make their rounds, as often as it wants to hear that. When one does not,
// it falls silent, and is restarted.
func (d *Daemon) keepAlive(ctx context.Context) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		return
	}
	ticker := time.NewTicker(interval / 3)
	defer ticker.Stop()
	stuck := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// An idle worker makes a round a second.
		if index, ok := d.sw.Alive(interval / 3); ok {
			d.tell("WATCHDOG=1")
			stuck = false
		} else if !stuck {
			stuck = true
			d.log.Error("a worker has made no progress; the service manager will restart switchd", "worker", index, "seconds", int((interval / 3).Seconds()))
		}
	}
}

// inherited is a listening socket that the service manager passed to us under a name, or nil.
func inherited(name string) (net.Listener, error) {
	sockets, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("sockets of the service manager: %w", err)
	}
	if list := sockets[name]; len(list) > 0 {
		return list[0], nil
	}
	return nil, nil
}
