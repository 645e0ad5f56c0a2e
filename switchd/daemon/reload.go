package daemon

import (
	"reflect"

	"vhostkit/switchd/config"
)

// Reload takes over what can change while the switch runs (the log level is the caller's to set), and names what needs a restart. One
// goroutine calls it.
func (d *Daemon) Reload(next config.Config) {
	for _, o := range config.Options() {
		now, configured := o.Value(d.configured), o.Value(next)
		if o.Section == "" || reflect.DeepEqual(now, configured) {
			continue
		}
		if o.Reloadable {
			d.log.Info("setting changed", "setting", o.Name, "from", now, "to", configured)
		} else {
			d.log.Warn("restart required for this setting", "setting", o.Name, "now", now, "configured", configured)
		}
	}
	if next.Stats != d.configured.Stats {
		select { // one that showStats has not seen yet is replaced
		case <-d.statsEvery:
		default:
		}
		d.statsEvery <- next.Stats
	}
	devices := next.Devices
	d.devices.Store(&devices)
	// What needs a restart stays as it is, and is named again at the next reload.
	d.configured.LogLevel, d.configured.Stats, d.configured.Devices = next.LogLevel, next.Stats, devices
	d.log.Info("configuration reloaded", "log-level", next.LogLevel)
}
