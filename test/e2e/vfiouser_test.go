package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vhostkit/test/frontend"
	"vhostkit/test/internal/proc"
	"vhostkit/test/nic82599"
	"vhostkit/test/pinger"
)

// guestLink is a front-end's queue pair.
type guestLink struct{ *frontend.Device }

func (g guestLink) Send(f []byte) error                         { return g.Device.Send(0, f) }
func (g guestLink) Receive(limit time.Duration) ([]byte, error) { return g.Device.Receive(0, limit) }

// TestSwitchOverVFIOUser: switchd drives the card over vfio-user, with more ports than the card has pools: each of them reaches the wire, and
// the first reaches the last, in the switch and by the card.
func TestSwitchOverVFIOUser(t *testing.T) {
	for _, mode := range []string{"1", "2"} {
		t.Run("vm2vm="+mode, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			t.Cleanup(cancel) // after the switch has ended
			wire := nic82599.NewPair(4096)
			k := plugCard(ctx, t, nic82599.Config{Wire: wire})
			sw := startSwitchd(t, "--uplink", "ixgbe:vfio-user:"+k.socket, "--vm2vm", mode, "--mac-limit", "4")
			eventually(t, 20*time.Second, "link", func() bool {
				s, err := sw.Client.Stats(ctx)
				return err == nil && s.Uplink.Carrier
			})
			const ports = 66
			host := func(i int) pinger.Host {
				return pinger.Host{MAC: addr(i), IP: netip.AddrFrom4([4]byte{10, 0, 1, byte(i + 1)})}
			}
			var devices []*frontend.Device
			for i := range ports {
				d := dial(t, sw, frontend.Config{Packed: i%2 == 1})
				if err := d.Send(0, host(i).Ask(host(i).IP)); err != nil { // says who it is
					t.Fatal(err)
				}
				sw.waitPorts(t, i+1)
				devices = append(devices, d)
			}
			eventually(t, 30*time.Second, "all addresses are known", func() bool { return strings.Count(sw.Log(), "registered") >= ports })
			if log := sw.Log(); !strings.Contains(log, "has 64") {
				t.Errorf("nothing is said of the ports beyond the card's pools:\n%s", proc.Tail(log, 10))
			}
			for len(wire.Out) > 0 {
				<-wire.Out
			}
			outside := pinger.Host{MAC: addr(0x99), IP: netip.MustParseAddr("10.0.1.99")}
			for _, i := range []int{0, 1, 63, 64, 65} {
				drain(devices[i])
				link := &vlanLink{k: k, wire: wire, vlan: 1000 + i}
				served := make(chan int)
				go func() { served <- pinger.Serve(outside, link, time.Second) }()
				if err := ping10(guestLink{devices[i]}, host(i), outside); err != nil {
					t.Errorf("port %d to the wire: %v", i, err)
				}
				<-served
			}
			for _, pair := range [][2]int{{0, 1}, {0, 65}, {64, 65}, {65, 63}} {
				from, to := pair[0], pair[1]
				drain(devices[from])
				drain(devices[to])
				served := make(chan int)
				go func() { served <- pinger.Serve(host(to), guestLink{devices[to]}, time.Second) }()
				before := k.PoolCounters()
				if err := ping10(guestLink{devices[from]}, host(from), host(to)); err != nil {
					t.Errorf("port %d to port %d: %v", from, to, err)
				}
				<-served
				if after := k.PoolCounters(); mode == "2" && to < 64 && from < 64 && after[to].Looped-before[to].Looped < 10 {
					t.Errorf("the card has not moved the frames from port %d to %d", from, to)
				}
			}
			k.wantNoViolations(t)
		})
	}
}

func ping10(l pinger.Link, from, to pinger.Host) error {
	found, err := from.Find(l, to.IP, 5*time.Second)
	if err == nil && found != to {
		err = fmt.Errorf("found %v, want %v", found, to)
	}
	if err != nil {
		return err
	}
	return from.Ping(l, to, 10, 1400, 5*time.Second)
}
