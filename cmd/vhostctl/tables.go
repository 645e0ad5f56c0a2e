package main

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"vhostkit/switchd/control"
)

// table writes rows in columns.
func table(w io.Writer, header string, rows func(row func(cells ...any))) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintln(t, strings.ReplaceAll(header, " ", "\t"))
	rows(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, c)
		}
		fmt.Fprintln(t)
	})
}

// orDash is a text that may come from a guest's side, such as a process name: what could steer a terminal is shown, not sent.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func number(id int) string {
	if id < 0 {
		return "-"
	}
	return fmt.Sprint(id)
}

// total sums a port's queues.
func total(p control.Port) (rx, tx control.QueueStats) {
	for _, q := range p.Queues {
		rx, tx = rx.Add(q.RX), tx.Add(q.TX)
	}
	return rx, tx
}

func portsTable(w io.Writer, ports []control.Port) {
	if len(ports) == 0 {
		fmt.Fprintln(w, "no ports: no guest has connected yet")
		return
	}
	table(w, "PORT NAME STATE MAC VLAN RING QUEUES RX-PACKETS RX-DROPPED TX-PACKETS TX-DROPPED PEER", func(row func(...any)) {
		for _, p := range ports {
			rx, tx := total(p)
			peer := "-"
			if p.Peer != nil {
				peer = fmt.Sprintf("%s[%d]", orDash(p.Peer.Comm), p.Peer.PID)
			}
			vlan := "-"
			if p.VLAN > 0 {
				vlan = fmt.Sprint(p.VLAN)
			}
			row(number(p.ID), orDash(p.Name), p.State, macs(p.MACs), vlan, orDash(p.Ring), len(p.Queues), rx.Packets, rx.Dropped, tx.Packets,
				tx.Dropped, peer)
		}
	})
	for _, p := range ports {
		for _, line := range remarks(p) {
			fmt.Fprintf(w, "port %s: %s\n", label(p), orDash(line))
		}
	}
}

// label names a port in remarks.
func label(p control.Port) string {
	if p.ID < 0 {
		return orDash(p.Name)
	}
	return fmt.Sprint(p.ID)
}

// remarks say why a port is not READY, and what went wrong on it not long ago.
func remarks(p control.Port) (lines []string) {
	switch {
	case p.Error != "" && p.Stopped != nil:
		lines = append(lines, fmt.Sprintf("stopped %s ago: %s", time.Since(*p.Stopped).Round(time.Second), p.Error))
	case p.Error != "":
		lines = append(lines, p.Error)
	case p.Reason != "":
		lines = append(lines, p.Reason)
	}
	if p.LastError != "" {
		lines = append(lines, "the device before was stopped: "+p.LastError)
	}
	if p.LastRefusal != "" && !strings.Contains(p.Reason, p.LastRefusal) {
		lines = append(lines, "the last connection was refused: "+p.LastRefusal)
	}
	return lines
}

func macs(list []string) string {
	switch len(list) {
	case 0:
		return "-"
	case 1:
		return list[0]
	}
	return fmt.Sprintf("%s+%d", list[0], len(list)-1)
}

func portDetails(w io.Writer, p control.Port) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(name string, format string, args ...any) {
		fmt.Fprintf(t, "%s:\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("port", "%s", number(p.ID))
	line("name", "%s", orDash(p.Name))
	line("state", "%s", p.State)
	for _, text := range remarks(p) {
		line("remark", "%s", orDash(text))
	}
	line("socket", "%s (%s)", p.Socket, p.Transport)
	if p.Peer != nil {
		line("peer", "%s, pid %d, uid %d, gid %d", orDash(p.Peer.Comm), p.Peer.PID, p.Peer.UID, p.Peer.GID)
	}
	if p.Connected != nil {
		line("connected", "%s ago", time.Since(*p.Connected).Round(time.Second))
		line("addresses", "%s", orDash(strings.Join(p.MACs, " ")))
		line("vlan", "%d", p.VLAN)
		line("mtu", "%d", p.MTU)
		line("ring", "%s", p.Ring)
		line("features", "%s %s", p.FeaturesHex, strings.Join(p.Features, " "))
		line("protocol", "%s", orDash(strings.Join(p.ProtocolFeatures, " ")))
		line("workers", "%v", p.Workers)
	}
	for _, r := range p.Memory {
		line("memory", "%d MiB at %#x", r.Size>>20, r.GuestPhysAddr)
	}
	t.Flush()
	if len(p.Queues) > 0 {
		fmt.Fprintln(w)
		queuesTable(w, p.Queues)
	}
}

func queuesTable(w io.Writer, queues []control.Queue) {
	table(w, "QUEUE SIZE RUNNING PACKETS BYTES DROPPED RETRIES KICKS CALLS REASONS", func(row func(...any)) {
		for _, q := range queues {
			row(fmt.Sprintf("rx%d", q.Pair), q.RXSize, q.RXRunning, q.RX.Packets, q.RX.Bytes, q.RX.Dropped, q.RX.Retries, q.RX.Kicks, q.RX.Calls,
				reasons(q.RX.Drops))
			row(fmt.Sprintf("tx%d", q.Pair), q.TXSize, q.TXRunning, q.TX.Packets, q.TX.Bytes, q.TX.Dropped, q.TX.Retries, q.TX.Kicks, q.TX.Calls,
				reasons(q.TX.Drops))
		}
	})
}

func reasons(drops map[string]uint64) string {
	var list []string
	for reason, n := range drops {
		list = append(list, fmt.Sprintf("%s=%d", reason, n))
	}
	sort.Strings(list)
	return orDash(strings.Join(list, " "))
}

func fdbTable(w io.Writer, entries []control.FDBEntry) {
	table(w, "MAC PORT VLAN AGE", func(row func(...any)) {
		for _, e := range entries {
			row(e.MAC, e.Port, e.VLAN, fmt.Sprintf("%ds", e.AgeSeconds))
		}
	})
}

// statsTable shows totals, and with an earlier reading of the same switch also rates.
func statsTable(w io.Writer, s control.Stats, before *control.Stats) {
	seconds := 0.0
	earlier := map[int]control.Port{}
	if before != nil && s.UptimeSeconds > before.UptimeSeconds {
		seconds = s.UptimeSeconds - before.UptimeSeconds
		for _, p := range before.Ports {
			earlier[p.ID] = p
		}
	}
	table(w, "PORT STATE RX-PACKETS RX-PPS RX-DROPPED RX-RETRIES TX-PACKETS TX-PPS TX-DROPPED DROP-REASONS", func(row func(...any)) {
		for _, p := range s.Ports {
			if p.ID < 0 || p.Stopped != nil {
				continue
			}
			rx, tx := total(p)
			old := earlier[p.ID]
			if !sameDevice(p, old) {
				old = control.Port{} // its counters began at 0 since then
			}
			oldRX, oldTX := total(old)
			row(p.ID, p.State, rx.Packets, rate(rx.Packets, oldRX.Packets, seconds), rx.Dropped, rx.Retries, tx.Packets,
				rate(tx.Packets, oldTX.Packets, seconds), tx.Dropped, reasons(rx.Add(tx).Drops))
		}
		if s.Uplink.Driver != "none" {
			u := s.Uplink
			var old control.UplinkStats
			if before != nil {
				old = before.Uplink
			}
			row(u.Name, u.Driver, u.RX.Packets, rate(u.RX.Packets, old.RX.Packets, seconds), u.RX.Dropped, "-", u.TX.Packets,
				rate(u.TX.Packets, old.TX.Packets, seconds), u.TX.Dropped, reasons(u.RX.Add(u.TX).Drops))
		}
	})
	if s.Uplink.Driver != "none" {
		fmt.Fprintln(w)
		uplinkTable(w, s.Uplink)
	}
	fmt.Fprintln(w)
	table(w, "WORKER CORE RINGS BUSY POLLS SLEEPS", func(row func(...any)) {
		for i, k := range s.Workers {
			busy := k.BusySeconds / max(s.UptimeSeconds, 0.001)
			if seconds > 0 && i < len(before.Workers) {
				busy = (k.BusySeconds - before.Workers[i].BusySeconds) / seconds
			}
			row(k.Index, number(k.Core), k.Rings, fmt.Sprintf("%.1f%%", 100*busy), k.Polls, k.Sleeps)
		}
	})
	budgetsTable(w, s.Budgets)
	if s.EventsLost > 0 {
		fmt.Fprintf(w, "\nevents missing from the log: %d (too many came at a time)\n", s.EventsLost)
	}
}

// uplinkTable shows the uplink: its link, the counters of the wire (where it is a NIC of the switch's own), and what was lost.
func uplinkTable(w io.Writer, u control.UplinkStats) {
	link := "down"
	if u.Carrier {
		link = "up"
	} else if u.Up {
		link = "no carrier"
	}
	lost, other := map[string]uint64{}, map[string]uint64{}
	for _, c := range u.AllCounters() {
		switch {
		case c.Value == 0, c.Name == "wire_rx", c.Name == "wire_tx", c.Name == "lent": // nothing to tell; have columns
		case c.Lost:
			lost[c.Name] = c.Value
		default:
			other[c.Name] = c.Value
		}
	}
	table(w, "UPLINK DRIVER LINK MTU POOLS WIRE-RX WIRE-TX LENT LOST OTHER", func(row func(...any)) {
		if u.Pools == 0 {
			row(u.Name, u.Driver, link, u.MTU, "-", "-", "-", "-", reasons(lost), reasons(other))
		} else {
			row(u.Name, u.Driver, link, u.MTU, u.Pools, u.WireRX, u.WireTX, u.Lent, reasons(lost), reasons(other))
		}
	})
}

// sameDevice tells whether two readings of a port are of the same connection.
func sameDevice(a, b control.Port) bool {
	return a.Connected != nil && b.Connected != nil && a.Connected.Equal(*b.Connected)
}

func rate(now, before uint64, seconds float64) string {
	if seconds <= 0 || now < before {
		return "-"
	}
	return fmt.Sprintf("%.0f", float64(now-before)/seconds)
}
