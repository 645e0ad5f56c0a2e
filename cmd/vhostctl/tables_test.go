package main

import (
	"strings"
	"testing"
	"time"

	"vhostkit/switchd/control"
)

func device(connected time.Time, received uint64) control.Port {
	return control.Port{
		ID: 0, State: control.StateReady, MACs: []string{"52:54:00:00:00:01"}, VLAN: 1000, Connected: &connected,
		Queues: []control.Queue{{RX: control.QueueStats{Packets: received, Drops: map[string]uint64{}}}},
	}
}

// column gives the cell under a header in the row that begins with the given text.
func column(t *testing.T, text, header, row string) string {
	t.Helper()
	lines := strings.Split(text, "\n")
	at := strings.Index(lines[0], header)
	if at < 0 {
		t.Fatalf("no column %s in\n%s", header, text)
	}
	for _, line := range lines[1:] {
		if strings.HasPrefix(line, row+" ") && len(line) > at {
			return strings.Fields(line[at:])[0]
		}
	}
	t.Fatalf("no row %s in\n%s", row, text)
	return ""
}

func TestStatsRates(t *testing.T) {
	first, later := time.Unix(100, 0), time.Unix(200, 0)
	uplink := func(n uint64) control.UplinkStats {
		return control.UplinkStats{Name: "vhk0", Driver: "tap", RX: control.QueueStats{Packets: n}}
	}
	before := &control.Stats{UptimeSeconds: 10, Ports: []control.Port{device(first, 1000)}, Uplink: uplink(50)}
	tests := []struct {
		name         string
		now          control.Stats
		before       *control.Stats
		port, uplink string
	}{
		{"no earlier reading", control.Stats{UptimeSeconds: 12, Ports: []control.Port{device(first, 3000)}, Uplink: uplink(70)}, nil, "-", "-"},
		{"two seconds", control.Stats{UptimeSeconds: 12, Ports: []control.Port{device(first, 3000)}, Uplink: uplink(70)}, before, "1000", "10"},
		{"another device has the number now", control.Stats{UptimeSeconds: 12, Ports: []control.Port{device(later, 3000)}, Uplink: uplink(70)}, before,
			"1500", "10"},
		{"switchd restarted", control.Stats{UptimeSeconds: 1, Ports: []control.Port{device(later, 5)}, Uplink: uplink(0)}, before, "-", "-"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var b strings.Builder
			statsTable(&b, test.now, test.before)
			if got := column(t, b.String(), "RX-PPS", "0"); got != test.port {
				t.Errorf("port: %s, want %s\n%s", got, test.port, &b)
			}
			if got := column(t, b.String(), "RX-PPS", "vhk0"); got != test.uplink {
				t.Errorf("uplink: %s, want %s\n%s", got, test.uplink, &b)
			}
		})
	}
}

// A process may call itself anything: its name must not steer the operator's terminal, nor break the table.
func TestPeerNamesDoNotSteerTheTerminal(t *testing.T) {
	p := device(time.Unix(1, 0), 1)
	p.Peer = &control.Peer{PID: 5, Comm: "\x1b[2Jq\temu\n\u202e\x9b"}
	p.Error = "bad\x1b]0;x\a"
	for name, show := range map[string]func(*strings.Builder){
		"ports": func(b *strings.Builder) { portsTable(b, []control.Port{p}) }, "port": func(b *strings.Builder) { portDetails(b, p) },
	} {
		var b strings.Builder
		show(&b)
		if strings.ContainsAny(b.String(), "\x1b\a\t\u202e") || strings.Contains(b.String(), "\x9b") {
			t.Errorf("%s: %q", name, b.String())
		}
		if name == "ports" && strings.Count(b.String(), "\n") != 3 {
			t.Errorf("the name breaks the table:\n%s", &b)
		}
	}
}

func TestEmptyTables(t *testing.T) {
	var b strings.Builder
	portsTable(&b, nil)
	if !strings.Contains(b.String(), "no ports") {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	waiting := control.Port{ID: -1, Name: "vm1", State: control.StateDisconnected, Socket: "/s", Transport: "vhost-user"}
	portDetails(&b, waiting)
	if !strings.Contains(b.String(), "DISCONNECTED") || strings.Contains(b.String(), "vlan") {
		t.Errorf("%s", &b)
	}
}

func TestUplinkTable(t *testing.T) {
	for _, test := range []struct {
		name  string
		stats control.UplinkStats
		want  string // after the name
	}{
		{"a card", control.UplinkStats{Driver: "ixgbe", Up: true, Carrier: true, MTU: 1500, Pools: 64, WireRX: 7, WireTX: 9, Lent: 4, Missed: 2, Spoofed: 1,
			Discarded: 8}, "ixgbe up 1500 64 7 9 4 discarded=8 missed=2 spoofed=1 -"},
		{"a tap without a cable", control.UplinkStats{Driver: "tap", Up: true, MTU: 1500}, "tap no carrier 1500 - - - - - -"},
		{"switched off", control.UplinkStats{Driver: "tap", Down: 3}, "tap down 0 - - - - down=3 -"},
		{"counters that have no column", control.UplinkStats{Driver: "ixgbe", Up: true, Carrier: true, MTU: 1500, Pools: 64, Counters: []control.Counter{
			{Name: "late", Lost: true, Value: 2}, {Name: "resets", Value: 1}, {Name: "full", Lost: true}}}, "ixgbe up 1500 64 0 0 0 late=2 resets=1"},
	} {
		var b strings.Builder
		test.stats.Name = "way-out"
		statsTable(&b, control.Stats{Uplink: test.stats}, nil)
		lines := strings.Split(b.String(), "\n")
		if len(lines) < 5 || strings.Join(strings.Fields(lines[4]), " ") != "way-out "+test.want {
			t.Errorf("%s: want %q in\n%s", test.name, test.want, &b)
		}
	}
}

// TestPortsSayWhy: under the table, for each port that is not READY; a stopped device has no counters to show.
func TestPortsSayWhy(t *testing.T) {
	now := time.Now()
	ports := []control.Port{
		{ID: 3, State: control.StateConnected, Reason: "no ring enabled", Connected: &now},
		{ID: -1, Name: "vm1", State: control.StateDisconnected, Reason: "no front-end is connected", LastRefusal: "in use"},
		{ID: 9, State: control.StateFailed, Error: "bad ring", Stopped: &now},
	}
	var b strings.Builder
	portsTable(&b, ports)
	for _, want := range []string{"port 3: no ring enabled\n", "port vm1: no front-end", "port vm1: the last connection was refused: in use\n", "port 9: stopped 0s ago: bad ring\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	b.Reset()
	statsTable(&b, control.Stats{Ports: ports}, nil)
	if strings.Contains(b.String(), "FAILED") {
		t.Errorf("a device that is gone has counters:\n%s", &b)
	}
}
