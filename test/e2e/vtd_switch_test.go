package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vhostkit/switchd/control"
	"vhostkit/test/guest"
	"vhostkit/test/nic82599"
	"vhostkit/test/pinger"
)

// vlanLink is the far end of the card's cable, seen from one VLAN. It counts all that passes.
type vlanLink struct {
	k    *card
	wire *nic82599.Pair
	vlan int
	sent atomic.Uint64 // frames put on the wire
	seen atomic.Uint64 // frames taken from it, whatever their VLAN
	echo atomic.Uint64 // among them: ICMP
	bad  atomic.Uint64 // among them: without a tag
}

func (l *vlanLink) Send(f []byte) error {
	l.sent.Add(1)
	l.k.Arrive(tagged(f, l.vlan))
	return nil
}

func (l *vlanLink) Receive(limit time.Duration) ([]byte, error) {
	end := time.After(limit)
	for {
		select {
		case f := <-l.wire.Out:
			l.seen.Add(1)
			if len(f) < 18 || f[12] != 0x81 || f[13] != 0 {
				l.bad.Add(1)
				continue
			}
			if f[16] == 8 && f[17] == 0 {
				l.echo.Add(1)
			}
			if int(f[14]&0xf)<<8|int(f[15]) == l.vlan {
				return append(append([]byte(nil), f[:12]...), f[16:]...), nil
			}
		case <-end:
			return nil, errors.New("nothing came")
		}
	}
}

// drain takes what is still there.
func (l *vlanLink) drain() {
	for {
		if _, err := l.Receive(200 * time.Millisecond); err != nil {
			return
		}
	}
}

// TestSwitchOnCard: switchd, in a guest, drives the card over the kernel's own vfio-pci and an emulated VT-d. Its clients, DPDK's virtio-user
// and a front-end, talk to the wire and to each other, by the switch (--vm2vm 1) and by the card's own (--vm2vm 2); what the registers hold
// and what the counters say is compared with what was done.
func TestSwitchOnCard(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	wire := nic82599.NewPair(4096)
	k := plugCard(ctx, t, nic82599.Config{Wire: wire, MAC: net.HardwareAddr{0x02, 0, 0x82, 0x59, 0x90, 1}})
	g := k.bootVTD(ctx, t, "switch")
	bindCard(ctx, t, g)
	for _, mode := range []int{1, 2} {
		t.Run(fmt.Sprintf("vm2vm=%d", mode), func(t *testing.T) { k.switchMode(ctx, t, g, wire, mode) })
	}
	t.Run("zero-copy", func(t *testing.T) { k.switchLends(ctx, t, g, wire) })
	if out := hostRun(ctx, t, g, "/tmp/vhostctl", "nic", "unbind", vtdCard); !strings.Contains(out, "the driver is now ixgbe") {
		t.Errorf("nic unbind:\n%s", out)
	}
	k.wantNoViolations(t)
}

func (k *card) switchMode(ctx context.Context, t *testing.T, g *guest.Guest, wire *nic82599.Pair, mode int) {
	s := startGuestSwitch(ctx, t, g, "--uplink", "ixgbe:"+vtdCard, "--vm2vm", fmt.Sprint(mode), "--mergeable", "1")
	eventually(t, time.Minute, "link", func() bool {
		st, err := s.stats(ctx)
		return err == nil && st.Uplink.Carrier
	})
	if res, err := g.Run(ctx, "chroot", "/host", "/tmp/vhostctl", "nic", "unbind", vtdCard); err != nil || res.Exit == 0 ||
		!strings.Contains(res.Stderr, "in use by switchd") {
		t.Errorf("nic unbind under the switch: %+v, %v", res, err)
	}
	link := &vlanLink{k: k, wire: wire, vlan: 1000}
	outside := pinger.Host{MAC: addr(0x99), IP: netip.MustParseAddr("10.0.0.99")}

	// A guest to the wire and back.
	answering := make(chan int)
	go func() { answering <- pinger.Serve(outside, link, 8*time.Second) }()
	if found := guestPings(ctx, t, g, "10.0.0.99"); found != net.HardwareAddr(outside.MAC[:]).String() {
		t.Errorf("10.0.0.99 is at %s", found)
	}
	if n := <-answering; n < echoes+1 {
		t.Errorf("the wire answered %d times", n)
	}
	k.wantPools(t, mode, map[int]pinger.Host{})
	// From here on all is counted. An answer that came before the guest's address was in the card may be lost: the guest asks again.
	link.drain()
	base, err := s.stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	link.sent.Store(0)
	link.seen.Store(0)

	// testpmd as port 0 answers whoever asks.
	pmd := k.startEchoGuest(ctx, t, g, "--no-huge", "-m", "200")
	before := k.PoolCounters()
	if found := guestPings(ctx, t, g, "10.0.0.2", "--packed"); found != echoMAC {
		t.Errorf("10.0.0.2 is at %s", found)
	}
	looped := k.PoolCounters()[0].Looped - before[0].Looped
	if mode == 1 && looped != 0 || mode == 2 && looped < echoes/2 { // the first ones may be faster than the filters
		t.Errorf("the card looped %d frames to pool 0 with --vm2vm %d", looped, mode)
	}
	wireEchoes := link.echo.Load()
	link.drain()
	if n := link.echo.Load() - wireEchoes; n != 0 {
		t.Errorf("%d echoes between guests are on the wire", n)
	}

	// The wire to a guest and back.
	m, _ := net.ParseMAC(echoMAC)
	to, err := outside.Find(link, netip.MustParseAddr("10.0.0.2"), 20*time.Second)
	if err != nil || to.MAC != [6]byte(m) {
		t.Fatalf("from the wire: found %v, %v", to, err)
	}
	before = k.PoolCounters()
	if err := outside.Ping(link, to, echoes, largest, 20*time.Second); err != nil {
		t.Errorf("from the wire: %v", err)
	}
	if n := k.PoolCounters()[0].Received - before[0].Received; n != echoes {
		t.Errorf("%d of %d frames from the wire are in pool 0", n, echoes)
	}
	k.wantPools(t, mode, map[int]pinger.Host{0: to})

	link.drain()
	k.wantCounters(ctx, t, s, base.Uplink, link, mode)
	if err := pmd.Write(ctx, "quit\n"); err != nil {
		t.Error(err)
	}
	if _, err := pmd.Wait(ctx); err != nil {
		t.Error(err)
	}
	s.stop(ctx, t)
	k.wantNoViolations(t)
}

const echoMAC = "02:00:00:00:00:02"

// startEchoGuest starts DPDK's testpmd as a guest that answers ARP and ICMP, with that memory.
func (k *card) startEchoGuest(ctx context.Context, t *testing.T, g *guest.Guest, memory ...string) *guest.Process {
	t.Helper()
	argv := append([]string{"chroot", "/host", "/usr/bin/dpdk-testpmd", "-l", "0,1", "-n", "4", "--no-telemetry"}, memory...)
	p, err := g.Background(ctx, append(argv, "--no-pci", "--vdev", "net_virtio_user0,path="+guestSocket+",queues=1,mac="+echoMAC, "--", "-i",
		"--nb-cores=1", "--no-mlockall", "--total-num-mbufs=4096", "--port-topology=loop", "--forward-mode=icmpecho")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Signal(context.Background(), syscall.SIGKILL) })
	for _, command := range []string{"\n", "start\n"} { // an empty line: what it complains of may stand in the middle of its first prompt
		if err := p.Write(ctx, command); err != nil {
			t.Fatal(err)
		}
		if out, err := p.Expect(ctx, "testpmd>"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return p
}

// wantPools compares the registers with what they have to hold for these ports and no others.
func (k *card) wantPools(t *testing.T, mode int, ports map[int]pinger.Host) {
	t.Helper()
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		s := k.Snapshot()
		if err = errors.Join(likeTheSample(s, mode), addressesOf(s, ports)); err == nil {
			return
		}
	}
	t.Errorf("registers: %v\n%s", err, sorted(k.Snapshot()))
}

// likeTheSample compares with what DPDK's vhost sample leaves in the registers, as far as this one does the same: 64
// pools, each with its VLAN, no default pool, and the card's own switch with --vm2vm 2.
func likeTheSample(s map[string]uint32, mode int) (err error) {
	const all = 0xffffffff
	want := map[string]uint32{"MRQC": 8, "VT_CTL": 0x60000001, "VLNCTRL": 0x40008100, "VFRE[0]": all, "VFRE[1]": all, "PFDTXGSWC": 0, "VMTXSW[0]": 0, "VMTXSW[1]": 0}
	if mode == 2 {
		want["PFDTXGSWC"], want["VMTXSW[0]"], want["VMTXSW[1]"] = 1, all, all
	}
	for i := range 128 {
		want[fmt.Sprintf("VFTA[%d]", i)] = all
	}
	for i := range 64 {
		want[fmt.Sprintf("VLVF[%d]", i)] = 1<<31 | uint32(1000+i)
		for half := range 2 {
			want[fmt.Sprintf("VLVFB[%d]", 2*i+half)] = uint32(uint64(1) << i >> (32 * half))
		}
	}
	for name, v := range want {
		if s[name] != v {
			err = errors.Join(err, fmt.Errorf("%s is %#x, want %#x", name, s[name], v))
		}
	}
	return err
}

// addressesOf wants each port's address in one slot, for its pool alone, and nothing in the other slots.
func addressesOf(s map[string]uint32, ports map[int]pinger.Host) error {
	owned := map[int]int{} // slots by port
	for i := range 128 {
		slot := [4]uint32{}
		for n, name := range []string{"RAL", "RAH", "MPSAR_LO", "MPSAR_HI"} {
			slot[n] = s[fmt.Sprintf("%s[%d]", name, i)]
		}
		if slot == [4]uint32{} {
			continue
		}
		found := false
		for p, h := range ports {
			m, pool := h.MAC, uint64(1)<<p
			if slot == [4]uint32{binary.LittleEndian.Uint32(m[:]), 1<<31 | uint32(m[5])<<8 | uint32(m[4]), uint32(pool), uint32(pool >> 32)} {
				owned[p]++
				found = true
			}
		}
		if !found {
			return fmt.Errorf("RAL, RAH and MPSAR[%d] are %08x: no port's", i, slot)
		}
	}
	for p := range ports {
		if owned[p] != 1 {
			return fmt.Errorf("the address of port %d is in %d slots", p, owned[p])
		}
	}
	return nil
}

// wantCounters compares what vhostctl shows with what the test has sent and seen.
func (k *card) wantCounters(ctx context.Context, t *testing.T, s *guestSwitch, base control.UplinkStats, link *vlanLink, mode int) {
	t.Helper()
	st, err := s.stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	u := st.Uplink
	u.WireRX, u.WireTX = u.WireRX-base.WireRX, u.WireTX-base.WireTX
	u.RX.Packets, u.TX.Packets = u.RX.Packets-base.RX.Packets, u.TX.Packets-base.TX.Packets
	if link.bad.Load() != 0 {
		t.Errorf("%d frames on the wire have no tag", link.bad.Load())
	}
	if u.WireRX != link.sent.Load() || u.WireTX != link.seen.Load() {
		t.Errorf("the card counts %d and %d frames on the wire, sent and seen were %d and %d", u.WireRX, u.WireTX, link.sent.Load(), link.seen.Load())
	}
	if mode == 1 && (u.RX.Packets != link.sent.Load() || u.TX.Packets != link.seen.Load()) {
		t.Errorf("the switch counts %d and %d frames, sent and seen were %d and %d", u.RX.Packets, u.TX.Packets, link.sent.Load(), link.seen.Load())
	}
	if mode == 2 && u.RX.Packets <= link.sent.Load() {
		t.Errorf("no frame came back from the card: %d received, %d sent by the wire", u.RX.Packets, link.sent.Load())
	}
	if lost := u.Full + u.Down + u.Rejected + u.Truncated + u.Missed + u.Broken + u.Spoofed; lost != 0 {
		t.Errorf("frames lost: %+v", u)
	}
	t.Logf("--vm2vm %d: wire %d in, %d out; switch %d in, %d out", mode, u.WireRX, u.WireTX, u.RX.Packets, u.TX.Packets)
}
