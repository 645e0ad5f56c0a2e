// Package hostvlan puts a host-side interface behind one VLAN of another interface, for tests of what the switch sends
// to its uplink and takes from there.
//
// It is the kernel's own VLAN interface where the kernel has them (8021q). Where it has not, as on small kernels for
// virtual machines, a tap interface and a relay in this process do the same.
package hostvlan

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Link is an interface with an address behind a VLAN.
type Link struct {
	Name   string // PARENT.VLAN
	Kernel bool   // the kernel's own, not the relay
	relay  *relay
}

// Add makes the interface PARENT.VLAN, gives it the address (with its prefix length, "10.0.0.1/24") and brings it up.
// The parent must be up. Needs CAP_NET_ADMIN and CAP_NET_RAW in the current network namespace.
func Add(ctx context.Context, parent string, vlan int, address string) (*Link, error) {
	l := &Link{Name: fmt.Sprintf("%s.%d", parent, vlan)}
	if len(l.Name) > 15 || vlan < 1 || vlan > 4094 {
		return nil, fmt.Errorf("VLAN interface %s: the name must have at most 15 characters, the VLAN be 1..4094", l.Name)
	}
	err := ip(ctx, "link", "add", "link", parent, "name", l.Name, "type", "vlan", "id", fmt.Sprint(vlan))
	l.Kernel = err == nil
	if err != nil {
		// Any other trouble with the parent shows again here.
		r, relayErr := newRelay(parent, l.Name, uint16(vlan))
		if relayErr != nil {
			return nil, fmt.Errorf("VLAN interface %s: neither the kernel's (%w) nor a relay (%w)", l.Name, err, relayErr)
		}
		l.relay = r
	}
	for _, args := range [][]string{{"addr", "add", address, "dev", l.Name}, {"link", "set", l.Name, "up"}} {
		if err := ip(ctx, args...); err != nil {
			l.Close()
			return nil, err
		}
	}
	if l.relay != nil {
		l.relay.start()
	}
	return l, nil
}

// Close removes the interface.
func (l *Link) Close() {
	if l.relay != nil {
		l.relay.stop()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// The parent may be gone already, and the interface with it.
	_ = ip(ctx, "link", "del", l.Name)
}

func ip(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
