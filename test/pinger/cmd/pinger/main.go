// Command pinger is a guest without a kernel: it plugs into a switch's vhost-user socket, finds an address by ARP and pings it, each answer
// compared byte by byte; or it answers others.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"vhostkit/test/frontend"
	"vhostkit/test/pinger"
)

// guest is queue pair 0 of a device.
type guest struct{ *frontend.Device }

func (g guest) Send(f []byte) error                         { return g.Device.Send(0, f) }
func (g guest) Receive(limit time.Duration) ([]byte, error) { return g.Device.Receive(0, limit) }

func main() {
	socket := flag.String("socket", "", "vhost-user `PATH` of the switch")
	mac := flag.String("mac", "02:00:00:00:00:01", "own `ADDRESS`")
	ip := flag.String("ip", "10.0.0.1", "own `ADDRESS`")
	peer := flag.String("peer", "", "`ADDRESS` to ping; none: answer others")
	count := flag.Int("count", 100, "echo requests")
	largest := flag.Int("largest", 1472, "`BYTES` of payload at the end")
	limit := flag.Duration("limit", 30*time.Second, "`TIME` to find the peer, and for each answer; or to answer without being asked")
	packed := flag.Bool("packed", false, "packed rings")
	boot := flag.String("boot", "", "`MAC=IP=SCRIPT;...`: answer these with an address and a script, too")
	flag.Parse()
	if err := run(*socket, *mac, *ip, *peer, *count, *largest, *limit, *packed, *boot); err != nil {
		fmt.Fprintf(os.Stderr, "pinger: %v\n", err)
		os.Exit(1)
	}
}

func run(socket, mac, ip, peer string, count, largest int, limit time.Duration, packed bool, boot string) error {
	m, err := net.ParseMAC(mac)
	if err != nil || len(m) != 6 {
		return fmt.Errorf("--mac %q: want six bytes: %v", mac, err)
	}
	own, err := netip.ParseAddr(ip)
	if err != nil {
		return err
	}
	d, err := frontend.Dial(frontend.Config{Socket: socket, Packed: packed, Mergeable: true})
	if err != nil {
		return fmt.Errorf("plug into %s: %w", socket, err)
	}
	defer d.Close()
	h := pinger.Host{MAC: [6]byte(m), IP: own}
	if peer == "" {
		server, err := bootServer(h, boot)
		if err != nil {
			return err
		}
		if err := (guest{d}).Send(h.Ask(own)); err != nil { // so that the switch knows who is here
			return err
		}
		fmt.Println("ready")
		fmt.Println("answered", pinger.Serve(server, guest{d}, limit))
		return nil
	}
	target, err := netip.ParseAddr(peer)
	if err != nil {
		return err
	}
	to, err := h.Find(guest{d}, target, limit)
	if err != nil {
		return err
	}
	fmt.Println("found", target, "at", net.HardwareAddr(to.MAC[:]))
	if err := h.Ping(guest{d}, to, count, largest, limit); err != nil {
		return err
	}
	fmt.Println("answers to", count, "echo requests, none wrong")
	return nil
}

func bootServer(h pinger.Host, clients string) (*pinger.Boot, error) {
	b := &pinger.Boot{Host: h, Clients: map[[6]byte]pinger.Client{}}
	for _, c := range strings.Split(clients, ";") {
		if c == "" {
			continue
		}
		parts := strings.SplitN(c, "=", 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("--boot %q: want MAC=IP=SCRIPT", c)
		}
		mac, err := net.ParseMAC(parts[0])
		if err != nil || len(mac) != 6 {
			return nil, fmt.Errorf("--boot %q: %v", c, err)
		}
		ip, err := netip.ParseAddr(parts[1])
		if err != nil {
			return nil, err
		}
		b.Clients[[6]byte(mac)] = pinger.Client{IP: ip, Script: "#!ipxe\n" + strings.ReplaceAll(parts[2], ",", "\n") + "\n"}
	}
	return b, nil
}
