package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"vhostkit/test/guest"
	"vhostkit/test/guest/hostvlan"
)

// pair boots two guests on a switch, with addresses 10.9.0.1 and 10.9.0.2 on their first NIC.
func pair(ctx context.Context, t *testing.T, socket string, nic guest.NIC) (a, b *guest.Guest) {
	t.Helper()
	boot := func(i int, out **guest.Guest, failed chan<- error) {
		n := nic
		n.Socket, n.MAC = socket, fmt.Sprintf("52:54:00:00:09:%02x", i)
		g, err := guest.Start(ctx, guest.Config{Name: fmt.Sprintf("g%d", i), NICs: []guest.NIC{n}, CPUs: max(1, nic.Queues)})
		if err == nil {
			*out = g
			_, err = g.Shell(ctx, fmt.Sprintf("ip addr add 10.9.0.%d/24 dev eth0 && ip link set eth0 up", i))
		}
		failed <- err
	}
	failed := make(chan error, 2)
	go boot(1, &a, failed)
	go boot(2, &b, failed)
	for range 2 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		for _, g := range []*guest.Guest{a, b} {
			if g != nil {
				g.Kill()
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return a, b
}

// ping asks for count answers and fails the test if one is missing.
func ping(ctx context.Context, t *testing.T, from *guest.Guest, to string, args ...string) {
	t.Helper()
	argv := append([]string{"ping", "-c", "3", "-i", "0.2", "-W", "5"}, append(args, to)...)
	if out := from.MustRun(ctx, t, argv...); !strings.Contains(out, " 0% packet loss") {
		t.Errorf("%s → %s: %s", from.Name(), to, out)
	}
}

// TestLinuxGuests (docs/dpdk-compat.md, 5): ping, ARP and a bulk transfer whose checksum matches, over every kind of
// ring.
func TestLinuxGuests(t *testing.T) {
	cases := []struct {
		name      string
		nic       guest.NIC
		mergeable bool
		jumbo     bool
	}{
		{name: "split", nic: guest.NIC{}},
		{name: "packed", nic: guest.NIC{Packed: true}},
		{name: "split mergeable jumbo", nic: guest.NIC{Mergeable: true, RXRing: 1024, TXRing: 1024}, mergeable: true, jumbo: true},
		{name: "packed mergeable jumbo", nic: guest.NIC{Packed: true, Mergeable: true}, mergeable: true, jumbo: true},
		{name: "split 2 queue pairs", nic: guest.NIC{Queues: 2}},
		{name: "packed mergeable 2 queue pairs", nic: guest.NIC{Packed: true, Mergeable: true, Queues: 2}, mergeable: true},
		{name: "offloads", nic: guest.NIC{Mergeable: true}, mergeable: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			args := []string{"--uplink", "none"}
			if c.mergeable {
				args = append(args, "--mergeable", "1")
			}
			if c.name == "offloads" {
				args = append(args, "--tx-csum", "1", "--tso", "1")
			}
			sw := startSwitchd(t, args...)
			a, b := pair(ctx, t, sw.Socket, c.nic)
			ping(ctx, t, a, "10.9.0.2")
			ping(ctx, t, b, "10.9.0.1", "-s", "1400")
			if out := a.MustRun(ctx, t, "ip", "neigh"); !strings.Contains(out, "52:54:00:00:09:02") {
				t.Errorf("guest 1 did not learn guest 2 by ARP: %s", out)
			}
			if c.jumbo {
				a.MustRun(ctx, t, "ip", "link", "set", "eth0", "mtu", "9000")
				b.MustRun(ctx, t, "ip", "link", "set", "eth0", "mtu", "9000")
				ping(ctx, t, a, "10.9.0.2", "-s", "8900")
			}
			const bulk = 16 << 20
			sent, received, err := guest.Exchange(ctx, a, b, "10.9.0.2", 5001, bulk, 42)
			if err != nil {
				t.Fatalf("bulk transfer: %v\n%s", err, sw.Log())
			}
			if sent.SHA256 != received.SHA256 || received.Bytes != bulk {
				t.Errorf("sent %d bytes %s, received %d bytes %s", sent.Bytes, sent.SHA256, received.Bytes, received.SHA256)
			}
			if c.nic.Queues > 1 {
				sw.wantTrafficOnPairs(t, c.nic.Queues)
			}
			t.Logf("%d MiB in %.1f s", bulk>>20, received.Seconds)
		})
	}
}

// TestGuestsSurviveSwitchRestart (docs/dpdk-compat.md, 5): switchd killed with -9 under traffic and started again;
// guests that reconnect go on within 3 s. Then a guest is killed with -9, and its port is free again.
func TestGuestsSurviveSwitchRestart(t *testing.T) {
	for _, packed := range []bool{false, true} {
		t.Run(fmt.Sprintf("packed=%v", packed), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			sw := startSwitchd(t, "--uplink", "none")
			a, b := pair(ctx, t, sw.Socket, guest.NIC{ReconnectSeconds: 1, Packed: packed})
			ping(ctx, t, a, "10.9.0.2")
			flood, err := a.Background(ctx, "ping", "-i", "0.01", "-q", "10.9.0.2")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
			sw.Kill9(t)
			sw.Start(t)
			begin := time.Now()
			for {
				res, err := b.Run(ctx, "ping", "-c", "1", "-W", "1", "10.9.0.1")
				if err == nil && res.Exit == 0 {
					break
				}
				if time.Since(begin) > 20*time.Second {
					t.Fatalf("no answer 20 s after the restart\n%s", sw.Log())
				}
			}
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("guests resumed after %v, want 3 s at most", took)
			} else {
				t.Logf("guests resumed after %v", took)
			}
			_ = flood.Signal(ctx, 2)

			b.Kill()
			sw.waitPorts(t, 1)
			ping2, err := a.Run(ctx, "ping", "-c", "1", "-W", "1", "10.9.0.2")
			if err == nil && ping2.Exit == 0 {
				t.Error("a killed guest answers")
			}
		})
	}
}

// TestTestpmdInGuest is the chapter "Running DPDK in the Virtual Machine" of the sample's guide (docs/dpdk-compat.md,
// 5): testpmd drives two virtio-net devices of a guest by uio_pci_generic, sends first, and its frames go round through
// the switch.
func TestTestpmdInGuest(t *testing.T) {
	if _, err := os.Stat("/usr/bin/dpdk-testpmd"); err != nil {
		t.Fatalf("dpdk-testpmd is missing; make test installs it: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	sw := startSwitchd(t, "--uplink", "none")
	nic := func(i int) guest.NIC {
		return guest.NIC{Socket: sw.Socket, MAC: fmt.Sprintf("52:54:00:00:0a:%02x", i), DeviceOptions: "disable-legacy=off"}
	}
	g, err := guest.Start(ctx, guest.Config{
		Name: "dpdk", MemoryMiB: 1024, CPUs: 2, NICs: []guest.NIC{nic(1), nic(2)}, HostRoot: true, Modules: []string{"uio_pci_generic"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Kill()
	if err := g.MountHost(ctx); err != nil {
		t.Fatal(err)
	}
	setup := `set -e
for a in $(ls /sys/bus/pci/drivers/virtio-pci); do
  case $a in 0000:*) if ls -d /sys/bus/pci/devices/$a/virtio*/net/eth* >/dev/null 2>&1; then
    echo $a > /sys/bus/pci/drivers/virtio-pci/unbind
    echo uio_pci_generic > /sys/bus/pci/devices/$a/driver_override
    echo $a > /sys/bus/pci/drivers/uio_pci_generic/bind; echo bound $a
  fi;; esac
done
echo 128 > /proc/sys/vm/nr_hugepages
mkdir -p /dev/hugepages && mount -t hugetlbfs none /dev/hugepages
grep HugePages_Total /proc/meminfo`
	out, err := g.Shell(ctx, setup)
	if err != nil || strings.Count(out, "bound") != 2 {
		t.Fatalf("binding to uio_pci_generic: %v\n%s", err, out)
	}
	p, err := g.Background(ctx, "chroot", "/host", "/usr/bin/dpdk-testpmd", "-l", "0,1", "-n", "4", "--no-telemetry", "--in-memory", "-m", "200", "--",
		"-i", "--nb-cores=1", "--no-mlockall", "--total-num-mbufs=4096",
		"--eth-peer=0,52:54:00:00:0a:02", "--eth-peer=1,52:54:00:00:0a:01")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			if res, _, err := p.Output(context.Background()); err == nil {
				t.Logf("testpmd:\n%s%s", res.Stdout, res.Stderr)
			}
			t.Logf("switchd:\n%s", sw.Log())
		}
	}()
	for _, line := range []string{"\n", "set fwd mac retry\n", "start tx_first\n"} {
		if err := p.Write(ctx, line); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Expect(ctx, "testpmd>"); err != nil {
			t.Fatalf("after %q: %v", strings.TrimSpace(line), err)
		}
	}
	sw.waitLog(t, "MAC_ADDRESS 52:54:00:00:0a:01 and VLAN_TAG 100")
	sw.waitLog(t, "MAC_ADDRESS 52:54:00:00:0a:02 and VLAN_TAG 100")
	first := sw.totalPackets(t)
	time.Sleep(2 * time.Second)
	if second := sw.totalPackets(t); second < first+1000 {
		t.Errorf("frames do not circulate: %d, two seconds later %d", first, second)
	} else {
		t.Logf("%d frames in 2 s", second-first)
	}
}

// TestHostBehindUplink: a guest reaches the host through the tap uplink, in its port's VLAN.
func TestHostBehindUplink(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	name := fmt.Sprintf("vhke%d", os.Getpid()%10000)
	sw := startSwitchd(t, "--uplink", "tap:"+name)
	link, err := hostvlan.Add(ctx, name, 1000, "10.99.7.1/24")
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	g, err := guest.Start(ctx, guest.Config{Name: "up", NICs: []guest.NIC{{Socket: sw.Socket, MAC: "52:54:00:00:0b:01"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Kill()
	if _, err := g.Shell(ctx, "ip addr add 10.99.7.2/24 dev eth0 && ip link set eth0 up"); err != nil {
		t.Fatal(err)
	}
	ping(ctx, t, g, "10.99.7.1", "-s", "1400")
	if !strings.Contains(sw.Log(), "DATA: (0) MAC_ADDRESS 52:54:00:00:0b:01 and VLAN_TAG 1000 registered") {
		t.Errorf("no DATA line:\n%s", sw.Log())
	}
}
