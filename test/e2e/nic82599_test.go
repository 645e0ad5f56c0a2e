package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vhostkit/test/guest"
	"vhostkit/test/nic82599"
)

// card is a model of the 82599 in a guest's slot.
type card struct {
	*nic82599.NIC
	socket string
}

// plugCard serves a card over vfio-user for the time of the test.
func plugCard(ctx context.Context, t *testing.T, c nic82599.Config) *card {
	t.Helper()
	n := nic82599.New(c)
	k := &card{n, filepath.Join(t.TempDir(), "card")}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- n.Serve(ctx, k.socket, nil) }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("rules broken: %v\nregisters: %s", n.Violations(), sorted(n.Snapshot()))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		n.Close()
	})
	return k
}

// sorted prints registers by name.
func sorted(registers map[string]uint32) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(registers)) {
		if !strings.HasPrefix(name, "SRRCTL") || registers[name] != 0x402 { // what they have after a reset
			fmt.Fprintf(&b, "%s=%#x ", name, registers[name])
		}
	}
	return b.String()
}

func (k *card) wantNoViolations(t *testing.T) {
	t.Helper()
	for _, v := range k.Violations() {
		t.Errorf("the driver broke a rule: %v", v)
	}
}

// newQEMU is one that has a vfio-user client.
func newQEMU(ctx context.Context, t *testing.T) string {
	t.Helper()
	qemu, err := guest.NewQEMU(ctx, "../..")
	if err != nil {
		t.Fatal(err)
	}
	return qemu
}

// bootWith boots a guest with the card in it.
func (k *card) bootWith(ctx context.Context, t *testing.T, name string, modules ...string) *guest.Guest {
	t.Helper()
	g, err := guest.Start(ctx, guest.Config{
		Name: name, QEMU: newQEMU(ctx, t), Accel: "tcg", Modules: modules, MemoryMiB: 384, BootTimeout: 3 * time.Minute, HostRoot: true,
		QEMUArgs: []string{"-device", fmt.Sprintf(`{"driver":"vfio-user-pci","socket":{"path":%q,"type":"unix"},"addr":"0x10"}`, k.socket)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("registers while the guest runs: %s", sorted(k.Snapshot()))
		}
		g.Kill()
	})
	return g
}

// dmesg is what the guest's kernel has said.
func dmesg(ctx context.Context, t *testing.T, g *guest.Guest) string {
	t.Helper()
	return g.MustRun(ctx, t, "dmesg")
}

// TestLinuxIxgbe: the distribution's unmodified ixgbe driver takes the model for an 82599: it reads the EEPROM, finds the SFP+, links at 10 Gbit/s,
// and two guests with a card each talk over a cable.
func TestLinuxIxgbe(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	ends := make([]nic82599.Wire, 2)
	a, b := nic82599.NewCable()
	ends[0], ends[1] = a, b
	var cards []*card
	var guests []*guest.Guest
	for i, end := range ends {
		k := plugCard(ctx, t, nic82599.Config{Wire: end, MAC: net.HardwareAddr{0x02, 0, 0x82, 0x59, 0x90, byte(i + 1)}})
		g := k.bootWith(ctx, t, fmt.Sprintf("ixgbe%d", i+1), "ixgbe", "af_packet")
		g.MustRun(ctx, t, "ip", "link", "set", "eth0", "up")
		g.MustRun(ctx, t, "ip", "addr", "add", fmt.Sprintf("10.82.0.%d/24", i+1), "dev", "eth0")
		cards, guests = append(cards, k), append(guests, g)
	}
	for i, g := range guests {
		eventually(t, time.Minute, "link", func() bool {
			out, _ := g.Output(ctx, "cat", "/sys/class/net/eth0/carrier")
			return strings.TrimSpace(out) == "1"
		})
		if speed := strings.TrimSpace(g.MustRun(ctx, t, "cat", "/sys/class/net/eth0/speed")); speed != "10000" {
			t.Errorf("guest %d links at %s Mbit/s", i, speed)
		}
		text := dmesg(ctx, t, g)
		for _, want := range []string{"SFP+: 5", "NIC Link is Up 10 Gbps", fmt.Sprintf("02:00:82:59:90:%02x", i+1)} {
			if !strings.Contains(text, want) {
				t.Errorf("the driver of guest %d has not said %q:\n%s", i, want, text)
			}
		}
	}
	ping(ctx, t, guests[0], "10.82.0.2", "-c", "5")
	sent, received, err := guest.Exchange(ctx, guests[0], guests[1], "10.82.0.2", 5001, 64<<20, 82599)
	if err != nil || sent.SHA256 != received.SHA256 || received.Bytes != 64<<20 {
		t.Fatalf("%v: sent %+v, received %+v", err, sent, received)
	}
	t.Logf("64 MiB of TCP in %.1f s", received.Seconds)
	for _, k := range cards {
		k.wantNoViolations(t)
	}
}

// TestLinuxIxgbeNoticesWrongEEPROM: a card with a wrong checksum is refused, with the driver's own words.
func TestLinuxIxgbeNoticesWrongEEPROM(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	k := plugCard(ctx, t, nic82599.Config{Faults: nic82599.Faults{EEPROMChecksum: true}})
	g := k.bootWith(ctx, t, "wrong", "ixgbe", "af_packet")
	if text := dmesg(ctx, t, g); !strings.Contains(text, "The EEPROM Checksum Is Not Valid") {
		t.Errorf("the driver has not noticed:\n%s", text)
	}
	if out, _ := g.Output(ctx, "ls", "/sys/class/net"); strings.Contains(out, "eth0") {
		t.Errorf("there is an interface: %s", out)
	}
}

// TestLinuxVMDq: with l2-fwd-offload and macvlans the driver divides the card into pools, and each macvlan's frames arrive in a pool of their own.
// Asserted is where the card put them: a ping would go well without pools too.
func TestLinuxVMDq(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	wire := nic82599.NewPair(1024)
	own := net.HardwareAddr{0x02, 0, 0x82, 0x59, 0x90, 1}
	k := plugCard(ctx, t, nic82599.Config{Wire: wire, MAC: own})
	g := k.bootWith(ctx, t, "vmdq", "ixgbe", "af_packet", "macvlan")
	if err := g.MountHost(ctx); err != nil {
		t.Fatal(err)
	}
	g.MustRun(ctx, t, "ip", "link", "set", "eth0", "up")
	eventually(t, time.Minute, "link", func() bool {
		out, _ := g.Output(ctx, "cat", "/sys/class/net/eth0/carrier")
		return strings.TrimSpace(out) == "1"
	})
	g.MustRun(ctx, t, "chroot", "/host", "ethtool", "-K", "eth0", "l2-fwd-offload", "on")
	addresses := []net.HardwareAddr{own}
	for i := range 2 {
		a := net.HardwareAddr{0x02, 0, 0, 0x6d, 0x76, byte(i)}
		name := fmt.Sprintf("mv%d", i)
		g.MustRun(ctx, t, "ip", "link", "add", "link", "eth0", "name", name, "address", a.String(), "type", "macvlan", "mode", "bridge")
		g.MustRun(ctx, t, "ip", "link", "set", name, "up")
		addresses = append(addresses, a)
	}
	eventually(t, time.Minute, "pools", func() bool { return k.Snapshot()["MRQC"]&0xf == 0xA && k.Snapshot()["PFDTXGSWC"] == 1 })
	seen, pools := map[int]bool{}, []int{}
	for i, a := range addresses {
		before := k.PoolCounters()
		const frames = 20
		eventually(t, 30*time.Second, fmt.Sprintf("frames for %s in one pool", a), func() bool {
			for range frames {
				k.Arrive(numbered(mac(a), addr(99), 128, 1))
			}
			pool, sum := -1, uint64(0)
			for p, c := range k.PoolCounters() {
				if n := c.Received - before[p].Received; n > sum {
					pool, sum = p, n
				}
			}
			if sum < frames {
				return false
			}
			if seen[pool] {
				t.Fatalf("frames for address %d arrive in pool %d, which is another's", i, pool)
			}
			seen[pool] = true
			pools = append(pools, pool)
			return true
		})
		name := "eth0"
		if i > 0 {
			name = fmt.Sprintf("mv%d", i-1)
		}
		eventually(t, 10*time.Second, "the kernel's own count for "+name, func() bool {
			out, _ := g.Output(ctx, "cat", "/sys/class/net/"+name+"/statistics/rx_packets")
			n, _ := strconv.Atoi(strings.TrimSpace(out))
			return n >= frames
		})
	}
	for i, pool := range pools[1:] { // and what a macvlan sends leaves by its own pool: nobody answers
		name, before := fmt.Sprintf("mv%d", i), k.PoolCounters()[pool].Sent
		g.MustRun(ctx, t, "ip", "addr", "add", fmt.Sprintf("10.82.%d.1/24", i), "dev", name)
		_, _ = g.Run(ctx, "ping", "-c", "1", "-W", "1", fmt.Sprintf("10.82.%d.2", i))
		if k.PoolCounters()[pool].Sent == before {
			t.Errorf("%s has sent nothing from pool %d", name, pool)
		}
	}
	s := k.Snapshot()
	t.Logf("MRQC %#x, VT_CTL %#x, MTQC %#x, pools %v", s["MRQC"], s["VT_CTL"], s["MTQC"], pools)
	k.wantNoViolations(t)
}
