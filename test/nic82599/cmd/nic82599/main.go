// Command nic82599 serves a model of the 82599 over vfio-user, for QEMU's guests:
//
//	nic82599 --socket /tmp/nic.sock --wire tap:tap0 --control /tmp/nic.json.sock
//	qemu-system-x86_64 … -device '{"driver":"vfio-user-pci","socket":{"path":"/tmp/nic.sock","type":"unix"}}'
//
// A client of the control socket gets one JSON object: violations, registers, counters of the pools.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"vhostkit/switchd/uplink/ixgbe/regs"
	"vhostkit/test/nic82599"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "nic82599:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("nic82599", flag.ExitOnError)
	socket := f.String("socket", "", "serve the card there")
	control := f.String("control", "", "tell its state there")
	wire := f.String("wire", "", "the other end of its cable: tap:NAME, or pcap:FILE to write what it sends; none without")
	mac := f.String("mac", "02:00:82:59:90:01", "its address")
	faults := f.String("faults", "", "what is wrong with it: eeprom, link, sfp, hung; several with commas")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *socket == "" {
		return fmt.Errorf("--socket is missing")
	}
	c := nic82599.Config{}
	var err error
	if c.MAC, err = net.ParseMAC(*mac); err != nil {
		return err
	}
	if c.Faults, err = parseFaults(*faults); err != nil {
		return err
	}
	if c.Wire, err = openWire(*wire); err != nil {
		return err
	}
	n := nic82599.New(c)
	if *control != "" {
		if err := tell(ctx, n, *control); err != nil {
			return err
		}
	}
	return n.Serve(ctx, *socket, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

func parseFaults(text string) (f nic82599.Faults, err error) {
	for _, word := range strings.Split(text, ",") {
		switch word {
		case "":
		case "eeprom":
			f.EEPROMChecksum = true
		case "link":
			f.NoLink = true
		case "sfp":
			f.NoSFP = true
		case "hung":
			f.HungTransmit = true
		default:
			return f, fmt.Errorf("--faults %q: want eeprom, link, sfp or hung", word)
		}
	}
	return f, nil
}

func openWire(text string) (nic82599.Wire, error) {
	kind, name, _ := strings.Cut(text, ":")
	switch kind {
	case "":
		return nil, nil
	case "tap":
		return nic82599.OpenTAP(name)
	case "pcap":
		out, err := os.Create(name)
		if err != nil {
			return nil, err
		}
		return nic82599.NewPcapWire(nil, out)
	}
	return nil, fmt.Errorf("--wire %q: want tap:NAME or pcap:FILE", text)
}

// State is what the control socket tells.
type State struct {
	Violations []string                          `json:"violations"`
	Registers  map[string]uint32                 `json:"registers"`
	Pools      [regs.Pools]nic82599.PoolCounters `json:"pools"`
	Resets     int                               `json:"resets"`
}

func tell(ctx context.Context, n *nic82599.NIC, path string) error {
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s := State{Registers: n.Snapshot(), Pools: n.PoolCounters(), Resets: n.Resets(), Violations: []string{}}
			for _, v := range n.Violations() {
				s.Violations = append(s.Violations, v.Error())
			}
			_ = json.NewEncoder(c).Encode(s)
			c.Close()
		}
	}()
	return nil
}
