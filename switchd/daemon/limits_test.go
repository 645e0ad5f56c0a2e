package daemon

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/config"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/uplink/ixgbe"
	"vhostkit/switchd/vhost/cuse"
)

// TestPortsHaveToFit: a configuration that needs more descriptors than there are is refused before anything is served.
func TestPortsHaveToFit(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	lower := unix.Rlimit{Cur: min(old.Cur, 4096), Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }()
	c := config.DefaultConfig()
	c.MaxPorts = 1024
	_, err := Limits(c)
	if err == nil {
		t.Fatal("1024 × 67 descriptors fit into 4096?")
	}
	for _, part := range []string{"1024 ports × (3 + 4 × 16 queue pairs)", "68864", "4096", "LimitNOFILE=", "--max-ports", "--max-queue-pairs"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	c.MaxPorts = 0
	if l, err := Limits(c); err != nil || l[budget.Ports].Total == 0 {
		t.Errorf("as many as fit: %+v, %v", l[budget.Ports], err)
	}
}

// TestConfigKnowsTheSwitch: the configuration, which imports nothing of the switch, says the same as what it is about.
func TestConfigKnowsTheSwitch(t *testing.T) {
	if config.MaxPorts != forward.MaxPorts {
		t.Errorf("--max-ports is %d at most, a switch has %d ports", config.MaxPorts, forward.MaxPorts)
	}
	if c := config.DefaultConfig(); c.VMDq != ixgbe.DefaultLayout {
		t.Errorf("--vmdq is %q by default, the driver's is %q", c.VMDq, ixgbe.DefaultLayout)
	}
	for _, name := range []string{"usvhost", "a.b-c_d", "0", strings.Repeat("x", 63), strings.Repeat("x", 64), "", ".x", "-x", "a/b", "a b", "ä"} {
		c := config.DefaultConfig()
		c.Backend, c.CUSEDevices = "cuse", []string{name}
		if valid := c.Validate() == nil; valid != cuse.ValidName(name) {
			t.Errorf("device %q: valid in the configuration %v, in the driver %v", name, valid, !valid)
		}
	}
}
