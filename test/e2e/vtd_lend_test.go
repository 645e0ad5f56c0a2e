package e2e

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostkit/test/guest"
	"vhostkit/test/nic82599"
	"vhostkit/test/pinger"
)

// switchLends: with --zero-copy 1 the card reads what guests send from their own memory, which the kernel's type1 driver maps for it. DPDK's
// virtio-user and a front-end talk to the wire and to each other, and DPDK is killed in the middle. What the card reads outside of what is
// mapped is a broken rule.
func (k *card) switchLends(ctx context.Context, t *testing.T, g *guest.Guest, wire *nic82599.Pair) {
	s := startGuestSwitch(ctx, t, g, "--uplink", "ixgbe:"+vtdCard, "--zero-copy", "1", "--mergeable", "1")
	eventually(t, time.Minute, "link", func() bool {
		st, err := s.stats(ctx)
		return err == nil && st.Uplink.Carrier
	})
	access := "access=vfio "
	if g.MustRun(ctx, t, "sh", "-c", "ls /dev/iommu 2>/dev/null || true") != "" { // not in Debian's kernels
		access = `access="vfio by iommufd"`
	}
	if text, _, err := s.messages(ctx); err != nil || !strings.Contains(text, access) {
		t.Errorf("want %s: %v\n%s", access, err, text)
	}
	t.Log(access)
	lent := func() uint64 {
		st, err := s.stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return st.Uplink.Lent
	}
	link := &vlanLink{k: k, wire: wire, vlan: 1000}
	outside := pinger.Host{MAC: addr(0x99), IP: netip.MustParseAddr("10.0.0.99")}

	// A guest to the wire: the requests are lent, from those on that are worth it.
	const worth = echoes * (largest - 300) / largest
	answering := make(chan int)
	go func() { answering <- pinger.Serve(outside, link, 8*time.Second) }()
	guestPings(ctx, t, g, "10.0.0.99")
	if n := <-answering; n < echoes+1 {
		t.Errorf("the wire answered %d times", n)
	}
	if n := lent(); n < worth {
		t.Errorf("%d frames were lent, want %d or more of %d", n, worth, echoes)
	}
	k.wantPools(t, 1, map[int]pinger.Host{})

	// The wire to DPDK: the answers are lent. Then guest to guest, where nothing is.
	pmd := k.startEchoGuest(ctx, t, g, "--in-memory", "--single-file-segments", "-m", "128")
	m, _ := net.ParseMAC(echoMAC)
	if found := guestPings(ctx, t, g, "10.0.0.2"); found != echoMAC {
		t.Errorf("10.0.0.2 is at %s", found)
	}
	before := lent()
	to, err := outside.Find(link, netip.MustParseAddr("10.0.0.2"), 20*time.Second)
	if err != nil || to.MAC != [6]byte(m) {
		t.Fatalf("from the wire: found %v, %v", to, err)
	}
	if err := outside.Ping(link, to, echoes, largest, 20*time.Second); err != nil {
		t.Errorf("from the wire: %v", err)
	}
	if n := lent() - before; n < worth {
		t.Errorf("%d answers were lent, want %d or more of %d", n, worth, echoes)
	}

	// DPDK dies under traffic. The switch and the other guest go on, and the card reads nothing of it any more.
	stop := make(chan struct{})
	flooded := make(chan int)
	go func() { flooded <- flood(outside, to, link, stop) }()
	time.Sleep(time.Second)
	if err := pmd.Signal(ctx, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	k.wantPools(t, 1, map[int]pinger.Host{})
	close(stop)
	if n := <-flooded; n < echoes {
		t.Errorf("only %d requests were sent while DPDK died", n)
	}
	link.drain()
	go func() { answering <- pinger.Serve(outside, link, 8*time.Second) }()
	guestPings(ctx, t, g, "10.0.0.99", "--packed")
	<-answering
	if text, _, err := s.messages(ctx); err != nil || strings.Contains(text, "is reset") || strings.Contains(text, "is copied") {
		t.Errorf("the card was reset, or a guest's memory was not lent: %v\n%s", err, text)
	}
	s.stop(ctx, t)
	k.wantNoViolations(t)
}

// flood sends echo requests and does not wait for answers. It returns how many.
func flood(from, to pinger.Host, l *vlanLink, stop chan struct{}) int {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return n
		default:
		}
		_ = l.Send(from.Echo(to, uint16(n), 1000))
		if n%8 == 7 {
			_, _ = l.Receive(time.Millisecond)
		}
	}
}
