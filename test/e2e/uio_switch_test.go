package e2e

import (
	"context"
	"fmt"
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

// bootUIO boots a guest with the card and no IOMMU, with hugepages and this machine's programs.
func (k *card) bootUIO(ctx context.Context, t *testing.T, name string) *guest.Guest {
	t.Helper()
	return k.boot(ctx, t, guest.Config{
		Name: name, Machine: "q35", MemoryMiB: 1024, Modules: []string{"uio_pci_generic", "ixgbe", "af_packet"}, BootTimeout: 3 * time.Minute,
	}, "echo 150 > /proc/sys/vm/nr_hugepages")
}

func (k *card) busMaster(t *testing.T) bool {
	t.Helper()
	command, err := k.ReadConfig(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	return command&4 != 0
}

// TestSwitchWithoutIOMMU: switchd, in a guest without an IOMMU, drives the card by its files below /sys and by physical addresses. A guest of
// its own talks to the wire. Nobody else may have the card meanwhile. Killed under traffic, it leaves a card that reaches no memory any more,
// and that comes off the bus before the memory goes; the next switch starts with a card that knows nothing of the last one's.
func TestSwitchWithoutIOMMU(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	wire := nic82599.NewPair(4096)
	k := plugCard(ctx, t, nic82599.Config{Wire: wire, MAC: net.HardwareAddr{0x02, 0, 0x82, 0x59, 0x90, 1}})
	g := k.bootUIO(ctx, t, "uio")
	if out := hostRun(ctx, t, g, "/tmp/vhostctl", "nic", "bind", vtdCard, "--driver", "uio_pci_generic"); !strings.Contains(out, "the driver is now uio_pci_generic") {
		t.Errorf("nic bind:\n%s", out)
	}
	if out := hostRun(ctx, t, g, "/tmp/vhostctl", "nic", "list"); !strings.Contains(out, "--unprotected-dma 1") {
		t.Errorf("nic list:\n%s", out)
	}
	s := k.startUnprotected(ctx, t, g)
	if text, _, err := s.messages(ctx); err != nil || !strings.Contains(text, "access=sysfs") {
		t.Errorf("%v\n%s", err, text)
	}
	link := &vlanLink{k: k, wire: wire, vlan: 1000}
	k.pingsOutside(ctx, t, g, link)
	k.wantRefusals(ctx, t, g)
	k.pingsOutside(ctx, t, g, link)
	k.wantNoViolations(t)
	s = k.killUnderTraffic(ctx, t, g, s, link)
	k.pingsOutside(ctx, t, g, link)
	s.stop(ctx, t)
	if k.busMaster(t) {
		t.Error("the card is on the bus after switchd has ended")
	}
	if out := hostRun(ctx, t, g, "/tmp/vhostctl", "nic", "unbind", vtdCard); !strings.Contains(out, "the driver is now ixgbe") {
		t.Errorf("nic unbind:\n%s", out)
	}
}

// killUnderTraffic kills the switch while a guest and the wire talk, and starts another. From then on the card tries to write and cannot, until
// the next switch has reset it.
func (k *card) killUnderTraffic(ctx context.Context, t *testing.T, g *guest.Guest, s *guestSwitch, link *vlanLink) *guestSwitch {
	t.Helper()
	wantOrder := traceEnd(ctx, t, g)
	busy := k.keepBusy(ctx, t, g, link)
	if err := s.Signal(ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the card is off the bus", func() bool { return !k.busMaster(t) })
	wantOrder()
	if s := k.Snapshot(); s["RXCTRL"]&1 == 0 || s["RXDCTL[0]"]>>25&1 == 0 {
		t.Error("the card does not receive any more: that it reaches no memory proves nothing")
	}
	eventually(t, time.Minute, "the card tries to write what comes, and cannot", func() bool { return len(k.Violations()) > 0 })
	s = k.startUnprotected(ctx, t, g)
	t.Logf("%d frames came while switchd died and came back", busy())
	for _, v := range k.Violations() {
		if !strings.Contains(v.Error(), "DMA at") || !strings.Contains(v.Error(), "the command register's bus master bit is clear") {
			t.Errorf("after the end of the first switch: %v", v)
		}
	}
	link.drain()
	return s
}

func (k *card) startUnprotected(ctx context.Context, t *testing.T, g *guest.Guest) *guestSwitch {
	t.Helper()
	s := startGuestSwitch(ctx, t, g, "--uplink", "ixgbe:"+vtdCard, "--unprotected-dma", "1", "--mergeable", "1")
	eventually(t, time.Minute, "link", func() bool {
		st, err := s.stats(ctx)
		return err == nil && st.Uplink.Carrier
	})
	return s
}

// answering is the far end of the cable, where a host answers until it is told to end.
type answering struct {
	*vlanLink
	end   chan struct{}
	count chan int
}

func (l *vlanLink) answer() *answering {
	a := &answering{l, make(chan struct{}), make(chan int)}
	go func() {
		a.count <- pinger.Serve(pinger.Host{MAC: addr(0x99), IP: netip.MustParseAddr("10.0.0.99")}, a, 50*time.Millisecond)
	}()
	return a
}

func (a *answering) Receive(limit time.Duration) ([]byte, error) {
	for {
		f, err := a.vlanLink.Receive(limit)
		if err == nil {
			return f, nil
		}
		select {
		case <-a.end:
			return nil, err
		default:
		}
	}
}

// stop ends it and tells how often it has answered.
func (a *answering) stop() int {
	close(a.end)
	return <-a.count
}

// pingsOutside lets a front-end in the guest ping a host at the far end of the cable.
func (k *card) pingsOutside(ctx context.Context, t *testing.T, g *guest.Guest, link *vlanLink) {
	t.Helper()
	a := link.answer()
	if found, want := guestPings(ctx, t, g, "10.0.0.99"), addr(0x99); found != net.HardwareAddr(want[:]).String() {
		t.Errorf("10.0.0.99 is at %s", found)
	}
	if n := a.stop(); n < echoes+1 {
		t.Errorf("the wire answered %d times", n)
	}
}

// wantRefusals: while switchd has the card, nobody else gets it, and who has it is told.
func (k *card) wantRefusals(ctx context.Context, t *testing.T, g *guest.Guest) {
	t.Helper()
	for _, argv := range [][]string{
		{"/tmp/switchd", "--control", "/tmp/second.sock", "--state-dir", "/tmp/second", "--socket-dir", "/tmp/second/ports", "--socket-file", "/tmp/second-vhost.sock",
			"--uplink", "ixgbe:" + vtdCard, "--unprotected-dma", "1"},
		{"/tmp/vhostctl", "nic", "unbind", vtdCard},
	} {
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		res, err := g.Run(limited, append([]string{"chroot", "/host"}, argv...)...)
		cancel()
		if err != nil || res.Exit == 0 || !strings.Contains(res.Stderr+res.Stdout, "in use by switchd (pid ") {
			t.Errorf("%v beside switchd: %+v, %v", argv, res, err)
		}
		if !k.busMaster(t) {
			t.Errorf("%v took the card off the bus", argv)
		}
	}
}

// keepBusy lets a front-end in the guest ping the wire, and the wire send it more than that, until the function that it returns is called. That
// one tells how many frames it sent.
func (k *card) keepBusy(ctx context.Context, t *testing.T, g *guest.Guest, link *vlanLink) func() int {
	t.Helper()
	p, err := g.Background(ctx, "chroot", "/host", "/tmp/pinger", "--socket", guestSocket, "--mac", "02:00:00:00:00:01", "--ip", "10.0.0.1", "--peer", "10.0.0.99",
		"--count", "1000000", "--largest", fmt.Sprint(largest))
	if err != nil {
		t.Fatal(err)
	}
	a := link.answer()
	before := link.echo.Load()
	eventually(t, time.Minute, "a guest pings", func() bool { return link.echo.Load() >= before+20 })
	stop, sent := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				sent <- n
				return
			case <-time.After(time.Millisecond):
				_ = link.Send(numbered(mac{2, 0, 0, 0, 0, 1}, addr(0x98), 600, uint32(n)))
			}
		}
	}()
	return func() int {
		close(stop)
		a.stop()
		_ = p.Signal(ctx, syscall.SIGKILL)
		if _, err := p.Wait(ctx); err != nil {
			t.Error(err)
		}
		return <-sent
	}
}

// traceEnd lets the guest's kernel note when it takes a card off the bus and when it gives a file's hugepages back. The function that it returns
// compares the two.
func traceEnd(ctx context.Context, t *testing.T, g *guest.Guest) func() {
	t.Helper()
	const dir = "/sys/kernel/tracing"
	if _, err := g.Shell(ctx, `mountpoint -q `+dir+` || mount -t tracefs none `+dir+`
cd `+dir+`
echo 'p:offbus pci_clear_master
p:freed hugetlbfs_evict_inode' > kprobe_events
echo 1 > events/kprobes/enable`); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		text := ""
		eventually(t, time.Minute, "the hugepages are given back", func() bool {
			text = g.MustRun(ctx, t, "cat", dir+"/trace")
			return strings.Contains(text, "freed:")
		})
		off, freed := strings.Index(text, "offbus:"), strings.Index(text, "freed:")
		if off < 0 || freed < off {
			t.Errorf("the memory was given back before the card was off the bus:\n%s", text)
		}
	}
}
