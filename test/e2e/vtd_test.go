package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"vhostkit/test/guest"
	"vhostkit/test/internal/proc"
	"vhostkit/test/nic82599"
)

// vtdCard is the PCI address of the card in a guest with an IOMMU.
const vtdCard = "0000:00:10.0"

// bootVTD boots a guest with an emulated VT-d and the card behind it, hugepages and this machine's programs.
func (k *card) bootVTD(ctx context.Context, t *testing.T, name string) *guest.Guest {
	t.Helper()
	return k.boot(ctx, t, guest.Config{
		Name: name, Machine: "q35,kernel-irqchip=split", KernelArgs: "intel_iommu=on", MemoryMiB: 1536,
		Modules: []string{"vfio-pci", "vfio_iommu_type1", "ixgbe", "af_packet"}, BootTimeout: 4 * time.Minute,
		QEMUArgs: []string{"-device", "intel-iommu,intremap=on,caching-mode=on"},
	}, `echo 300 > /proc/sys/vm/nr_hugepages
mkdir -p /dev/hugepages && mount -t hugetlbfs none /dev/hugepages`)
}

// boot starts a guest that has the card and the project's programs, and prepares it with a script.
func (k *card) boot(ctx context.Context, t *testing.T, c guest.Config, script string) *guest.Guest {
	t.Helper()
	c.QEMU, c.Accel, c.CPUs, c.HostRoot = newQEMU(ctx, t), "tcg", 2, true
	c.Files = map[string]string{
		"/programs/vhostctl": commandPath(t, "vhostctl"), "/programs/switchd": commandPath(t, "switchd"), "/programs/pinger": testProgram(ctx, t, "pinger/cmd/pinger"),
	}
	c.QEMUArgs = append(c.QEMUArgs, "-device", fmt.Sprintf(`{"driver":"vfio-user-pci","socket":{"path":%q,"type":"unix"},"addr":"0x10"}`, k.socket))
	g, err := guest.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("registers while the guest runs: %s\nconsole: %s", sorted(k.Snapshot()), proc.Tail(g.Console(), 30))
		}
		g.Kill()
	})
	if err := g.MountHost(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Shell(ctx, "mount -t tmpfs none /host/var/lib\ncp /programs/* /host/tmp\n"+script); err != nil {
		t.Fatal(err)
	}
	return g
}

// bindCard gives the card to user space with the project's own command.
func bindCard(ctx context.Context, t *testing.T, g *guest.Guest) {
	t.Helper()
	if out := hostRun(ctx, t, g, "/tmp/vhostctl", "nic", "list"); !strings.Contains(out, "82599 SFI/SFP+") || !strings.Contains(out, "ixgbe") {
		t.Errorf("nic list:\n%s", out)
	}
	if out := hostRun(ctx, t, g, "/tmp/vhostctl", "nic", "bind", vtdCard); !strings.Contains(out, "the driver is now vfio-pci") {
		t.Errorf("nic bind:\n%s", out)
	}
	if out := hostRun(ctx, t, g, "/tmp/vhostctl", "nic", "bind", vtdCard); !strings.Contains(out, "nothing to do") {
		t.Errorf("nic bind again:\n%s", out)
	}
}

// TestTestpmdOnCard: DPDK's ixgbe driver, in a guest over the kernel's vfio-pci and an emulated VT-d, sends back what comes from the wire.
func TestTestpmdOnCard(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	wire := nic82599.NewPair(4096)
	k := plugCard(ctx, t, nic82599.Config{Wire: wire, MAC: net.HardwareAddr{0x02, 0, 0x82, 0x59, 0x90, 1}})
	g := k.bootVTD(ctx, t, "pmd")
	bindCard(ctx, t, g)
	p, err := g.Background(ctx, "chroot", "/host", "/usr/bin/dpdk-testpmd", "-l", "0,1", "-n", "4", "--no-telemetry", "--in-memory", "-m", "400",
		"-a", vtdCard, "--", "-i", "--nb-cores=1", "--no-mlockall", "--total-num-mbufs=4096", "--port-topology=loop", "--forward-mode=macswap")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			if res, _, err := p.Output(context.Background()); err == nil {
				t.Logf("testpmd:\n%s%s", res.Stdout, res.Stderr)
			}
		}
	}()
	if out, err := p.Expect(ctx, "testpmd>"); err != nil || !strings.Contains(out, "net_ixgbe") && !strings.Contains(out, "02:00:82:59:90:01") {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := p.Write(ctx, "start\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Expect(ctx, "testpmd>"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "testpmd's queues", func() bool {
		s := k.Snapshot()
		return s["RXCTRL"]&1 == 1 && s["RXDCTL[0]"]>>25&1 == 1 && s["TXDCTL[0]"]>>25&1 == 1
	})
	const frames = 200
	got := 0
	for i := range frames {
		f := numbered(addr(1), addr(2), 64+5*i, uint32(i))
		want := numbered(addr(2), addr(1), 64+5*i, uint32(i))
		copy(want[12:], f[12:])
		eventually(t, 20*time.Second, fmt.Sprintf("frame %d to come back", i), func() bool {
			k.Arrive(f)
			for {
				select {
				case back := <-wire.Out:
					if slices.Equal(back, want) {
						got++
						return true
					}
				case <-time.After(300 * time.Millisecond):
					return false
				}
			}
		})
	}
	t.Logf("%d frames of 64 to %d bytes went through testpmd", got, 64+5*(frames-1))
	k.wantNoViolations(t)
	if err := p.Write(ctx, "quit\n"); err != nil {
		t.Error(err)
	}
	if _, err := p.Expect(ctx, "Bye..."); err != nil {
		t.Error(err)
	}
	if out := hostRun(ctx, t, g, "/tmp/vhostctl", "nic", "unbind", vtdCard); !strings.Contains(out, "the driver is now ixgbe") {
		t.Errorf("nic unbind:\n%s", out)
	}
	k.wantNoViolations(t)
}
