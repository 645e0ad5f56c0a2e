package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"vhostkit/test/guest"
	"vhostkit/test/libvirtd"
)

const sharedMemory = `<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>`

func domainMAC(n int) string { return fmt.Sprintf("52:54:00:00:08:%02x", n) }

// tap is an ordinary interface: libvirt makes a tap for it.
func tap(n int) string {
	return fmt.Sprintf(`<interface type='ethernet'><mac address='%s'/><model type='virtio'/></interface>`, domainMAC(n))
}

// TestLibvirtWrapper: domains whose emulator is qemu-wrap, with taps, talk to each other through the switch; destroyed, nothing is left.
func TestLibvirtWrapper(t *testing.T) {
	h := startHost(t)
	wrapper := h.install(t, "qemu-wrap")
	for i, name := range []string{"w1", "w2"} {
		h.define(t, libvirtd.Domain{Name: name, Emulator: wrapper, Interfaces: tap(i + 1)})
	}
	guests := h.boot(t, "w1", "w2")
	ping(h.ctx, t, guests[0], "10.8.0.2")
	ping(h.ctx, t, guests[1], "10.8.0.1", "-s", "1400")
	h.wantReady(t, 2)
	h.wantDomains(t, "w1 running READY shared w1-hostnet0", "w2 running READY shared w2-hostnet0")
	h.destroy(t, "w1")
	h.destroy(t, "w2")
}

// TestLibvirtAttach: ordinary domains are attached, talk through the switch, also after the switch has crashed, and are detached again with
// their descriptions as they were.
func TestLibvirtAttach(t *testing.T) {
	h := startHost(t)
	before := map[string]string{}
	for i, name := range []string{"a1", "a2"} {
		before[name] = h.define(t, libvirtd.Domain{Name: name, Interfaces: tap(i + 1)})
	}
	if out := h.vhostctl(t, "attach", "a1", "--dry-run"); !strings.Contains(out, "+    <interface type='vhostuser'>") {
		t.Errorf("attach --dry-run shows no diff:\n%s", out)
	}
	if now := h.inactive(t, "a1"); now != before["a1"] || len(h.ports(t)) != 0 {
		t.Errorf("attach --dry-run changed something: ports %v, description\n%s", h.ports(t), now)
	}
	h.vhostctl(t, "attach", "a1", "--yes")
	h.vhostctl(t, "attach", "a2", "--yes")
	attached := h.inactive(t, "a1")
	if out := h.vhostctl(t, "attach", "a1", "--yes"); !strings.Contains(out, "nothing to do") || h.inactive(t, "a1") != attached {
		t.Errorf("a second attach changes something: %s", out)
	}

	guests := h.boot(t, "a1", "a2")
	ping(h.ctx, t, guests[0], "10.8.0.2")
	ping(h.ctx, t, guests[1], "10.8.0.1", "-s", "1400")
	h.wantReady(t, 2)
	h.wantDomains(t, "a1 running READY shared a1-net0", "a2 running READY shared a2-net0")
	h.wantHealthy(t, "a1")

	h.crashSwitch(t)
	h.startSwitch(t)
	begin := time.Now()
	eventually(t, 20*time.Second, "the guests answer each other after switchd's crash", func() bool {
		r, err := guests[0].Run(h.ctx, "ping", "-c", "1", "-W", "1", "10.8.0.2")
		return err == nil && r.Exit == 0
	})
	t.Logf("traffic resumed %v after switchd was there again", time.Since(begin).Round(time.Millisecond))

	for _, name := range []string{"a1", "a2"} {
		h.destroy(t, name)
		h.wantDomains(t, map[string][]string{
			"a1": {"a1 stopped no shared a1-net0", "a2 running READY shared a2-net0"}, "a2": {"a2 stopped no shared a2-net0"},
		}[name]...)
		h.vhostctl(t, "detach", name, "--yes")
		if now := h.inactive(t, name); now != before[name] {
			t.Errorf("after detach domain %s is\n%s\nand was\n%s", name, now, before[name])
		}
	}
	if ports := h.ports(t); len(ports) != 0 {
		t.Errorf("ports are left: %+v", ports)
	}
}

// TestLibvirtHotplug: the interface of a running domain is moved onto the switch and back, beside one that came by the wrapper.
func TestLibvirtHotplug(t *testing.T) {
	h := startHost(t)
	before := h.define(t, libvirtd.Domain{Name: "hot", Memory: sharedMemory, Interfaces: tap(1)})
	h.define(t, libvirtd.Domain{Name: "peer", Emulator: h.install(t, "qemu-wrap"), Interfaces: tap(2)})
	guests := h.boot(t, "hot", "peer")
	if r, err := guests[1].Run(h.ctx, "ping", "-c", "1", "-W", "1", "10.8.0.1"); err != nil || r.Exit == 0 {
		t.Fatalf("domain peer reaches domain hot before that is attached: %v, %+v", err, r)
	}
	h.wantDomains(t, "peer running READY shared peer-hostnet0")

	h.vhostctl(t, "attach", "hot", "--live", "--yes")
	h.readdress(t, guests[0], 1)
	ping(h.ctx, t, guests[0], "10.8.0.2")
	ping(h.ctx, t, guests[1], "10.8.0.1")
	h.wantReady(t, 2)

	h.vhostctl(t, "detach", "hot", "--live", "--yes")
	h.readdress(t, guests[0], 1)
	if live := h.virsh(t, "dumpxml", "hot"); strings.Contains(live, "vhostuser") || !strings.Contains(live, "type='ethernet'") {
		t.Errorf("after detach the running domain is\n%s", live)
	}
	if now := h.inactive(t, "hot"); now != before {
		t.Errorf("after detach domain hot is\n%s\nand was\n%s", now, before)
	}
	if r, err := guests[0].Run(h.ctx, "ping", "-c", "1", "-W", "1", "10.8.0.2"); err != nil || r.Exit == 0 {
		t.Errorf("domain hot is on the switch after detach: %v, %+v", err, r)
	}
	if ports := h.ports(t); len(ports) != 1 {
		t.Errorf("want the port of domain peer alone: %+v", ports)
	}
	h.destroy(t, "hot")
	h.destroy(t, "peer")
}

// readdress configures the interface that was plugged into the running guest.
func (h *host) readdress(t *testing.T, g *guest.Guest, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, 20*time.Second)
	defer cancel()
	script := fmt.Sprintf(`until grep -q %s /sys/class/net/eth*/address && ! ip -4 addr show | grep -q 10.8.0; do sleep 0.1; done
dev=$(basename $(dirname $(grep -l %[1]s /sys/class/net/eth*/address)))
ip addr add 10.8.0.%d/24 dev $dev && ip link set $dev up`, domainMAC(n), n)
	if _, err := g.Shell(ctx, script); err != nil {
		t.Fatalf("the plugged interface of %s: %v", g.Name(), err)
	}
}
