package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostkit/test/frontend"
	"vhostkit/test/guest"
)

// TestFirmwareDHCP (docs/dpdk-compat.md, 5): QEMU without a guest system. The network firmware's DHCP frames come
// through.
func TestFirmwareDHCP(t *testing.T) {
	sw := startSwitchd(t)
	d := dial(t, sw, frontend.Config{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	g, err := guest.Start(ctx, guest.Config{Name: "ipxe", Firmware: true, NICs: []guest.NIC{{Socket: sw.Socket, MAC: "52:54:00:00:00:14"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Kill()
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); {
		f, err := d.Receive(0, time.Second)
		if err != nil {
			continue
		}
		// Broadcast, IPv4, UDP from 68 to 67, a DHCP cookie.
		if f[0] == 0xff && len(f) > 282 && f[12] == 8 && f[23] == 17 && f[35] == 68 && f[37] == 67 && string(f[278:282]) == "\x63\x82\x53\x63" {
			sw.waitLog(t, "MAC_ADDRESS 52:54:00:00:00:14 and VLAN_TAG 1001 registered")
			return
		}
	}
	t.Errorf("no DHCP frame of the firmware arrived\n%s", g.Console())
}

// TestGuideCommandLines: the command lines in the guide to DPDK's vhost sample run (docs/dpdk-compat.md, 2 and 5), and
// a guest can connect.
func TestGuideCommandLines(t *testing.T) {
	const eal = "-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- "
	for _, c := range []struct{ app, socket string }{
		{"-p 0x1 --dev-basename usvhost", "usvhost"},
		{"--vm2vm 0", "vhost-net"}, {"--vm2vm 1", "vhost-net"},
		{"--mergeable 0", "vhost-net"}, {"--mergeable 1", "vhost-net"},
		{"--stats 0", "vhost-net"}, {"--stats 1", "vhost-net"},
		{"--rx-retry 0", "vhost-net"}, {"--rx-retry 1 --rx-retry-num 5", "vhost-net"}, {"--rx-retry 1 --rx-retry-delay 20", "vhost-net"},
		{"--vlan-strip 0", "vhost-net"}, {"--vlan-strip 1", "vhost-net"},
		{"-P --tx-csum 1 --tso 1 --socket-file ./a-socket", "a-socket"},
	} {
		t.Run(c.app, func(t *testing.T) {
			sw := &switchd{Dir: t.TempDir()}
			sw.args = strings.Fields(eal + c.app)
			sw.env = []string{"XDG_RUNTIME_DIR=" + sw.Dir}
			sw.StartLegacy(t, c.socket)
			defer sw.Stop(t)
			d := dial(t, sw, frontend.Config{})
			if err := d.Send(0, numbered(addr(9), addr(1), 60, 0)); err != nil {
				t.Fatal(err)
			}
			sw.waitLog(t, "DATA: (0) MAC_ADDRESS 02:00:00:01:00:01 and VLAN_TAG 1000 registered")
			if strings.Contains(c.app, "--stats 1") {
				sw.waitLog(t, "Statistics for device 0\n-----------------------\nTX total:              1\nTX dropped:            1\nTX successful:         0\n")
			}
			if strings.Contains(c.app, "-p 0x1") && strings.Count(sw.Log(), "no 82599 is bound") != 1 {
				t.Errorf("no single warning about -p:\n%s", sw.Log())
			}
		})
	}
	out, err := exec.Command(commandPath(t, "switchd"), strings.Fields(eal+"--vm2vm 2")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--vm2vm 2") || !strings.Contains(string(out), "82599") {
		t.Errorf("--vm2vm 2 without a NIC: %v\n%s", err, out)
	}
}

// TestNamedPortsPersist: a port added by hand is there again after a crash.
func TestNamedPortsPersist(t *testing.T) {
	sw := startSwitchd(t)
	ctx := context.Background()
	p, err := sw.Client.AddPort(ctx, "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sw.Client.AddPort(ctx, "vm1"); err == nil {
		t.Error("a second port of the same name was added")
	}
	if _, err := sw.Client.AddPort(ctx, "../evil"); err == nil {
		t.Error("a port with a path for a name was added")
	}
	sw.Kill9(t)
	sw.Start(t)
	shared := sw.Socket
	sw.Socket = p.Socket
	d := dial(t, sw, frontend.Config{})
	teach(t, sw, d, addr(1))
	if got, err := sw.Client.Port(ctx, "vm1"); err != nil || got.State != "READY" || got.ID != 0 {
		t.Errorf("port vm1 is %+v, %v", got, err)
	}
	if _, err := frontend.Dial(frontend.Config{Socket: p.Socket}); err == nil {
		t.Error("a second device was let onto a named port")
	}
	if err := sw.Client.RemovePort(ctx, "vm1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.Socket); err == nil {
		t.Error("the socket of a removed port is still there")
	}
	sw.waitPorts(t, 0)
	sw.Socket = shared
	dial(t, sw, frontend.Config{})
}

// TestStaleAndLiveSockets: a crash's socket file is replaced, a live switch's never.
func TestStaleAndLiveSockets(t *testing.T) {
	sw := startSwitchd(t)
	second := exec.Command(commandPath(t, "switchd"), "--socket-file", sw.Socket, "--control", filepath.Join(sw.Dir, "second.sock"), "--state-dir",
		t.TempDir())
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "in use") {
		t.Errorf("a second switch on the same socket: %v\n%s", err, out)
	}
	dial(t, sw, frontend.Config{}).Close()
	sw.Kill9(t) // leaves both sockets behind
	sw.Start(t)
	dial(t, sw, frontend.Config{})
	sw.Stop(t)
	for _, path := range []string{sw.Socket, filepath.Join(sw.Dir, "control.sock")} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left behind after an orderly stop", path)
		}
	}
	sw.Start(t)
}

// TestKilledFrontend: a front-end killed with -9 under traffic frees its port; the others go on.
func TestKilledFrontend(t *testing.T) {
	sw := startSwitchd(t)
	b := startBystanders(t, sw)
	deaf := dial(t, sw, frontend.Config{}) // never takes its frames: its ring is full all the time
	teach(t, sw, deaf, addr(0x98))
	pmd, err := exec.LookPath("dpdk-testpmd")
	if err != nil {
		t.Fatalf("dpdk-testpmd is missing (make test installs it): %v", err)
	}
	cmd := exec.Command(pmd, "-l", "0,1", "--no-huge", "-m", "200", "--no-pci", "--no-telemetry", fmt.Sprintf("--file-prefix=vkk%d", os.Getpid()),
		"--vdev", "net_virtio_user0,path="+sw.Socket+",mac=02:00:00:01:00:99", "--", "--forward-mode=txonly", "--nb-cores=1", "--no-mlockall",
		"--total-num-mbufs=4096", "--eth-peer=0,02:00:00:01:00:98")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, _ := cmd.StdinPipe()
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "testpmd sends", func() bool {
		for _, p := range sw.ports(t) {
			if p.ID == 3 && len(p.Queues) > 0 && p.Queues[0].TX.Packets > 10000 {
				return true
			}
		}
		return false
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	sw.waitPorts(t, 3)
	b.finish(t)
}

// TestIdleCost: a switch with 10 connected guests that have nothing to say uses less than 2 % of a core, and the first frame after idleness
// goes through at once.
func TestIdleCost(t *testing.T) {
	sw := startSwitchd(t)
	var d []*frontend.Device
	for i := range 10 {
		d = append(d, dial(t, sw, frontend.Config{Packed: i%2 == 1, EventIdx: i%3 == 0}))
		teach(t, sw, d[i], addr(i))
	}
	time.Sleep(200 * time.Millisecond)
	before, begin := cpuTicks(t, sw.cmd.Process.Pid), time.Now()
	time.Sleep(3 * time.Second)
	used := float64(cpuTicks(t, sw.cmd.Process.Pid)-before) / 100 / time.Since(begin).Seconds()
	t.Logf("idle with 10 guests: %.2f %% of a core", 100*used)
	if used >= 0.02 {
		t.Errorf("an idle switch uses %.1f %% of a core, want less than 2 %%", 100*used)
	}
}

// BenchmarkWakeLatency measures from the sender's kick to the frame in the receiver's ring after 20 ms of idleness, and beside it what the
// machine needs to wake a thread that sleeps in epoll, without any switch. Run it with -benchtime=200x.
func BenchmarkWakeLatency(b *testing.B) {
	sw := startSwitchd(b)
	from, to := dial(b, sw, frontend.Config{}), dial(b, sw, frontend.Config{})
	teach(b, sw, to, addr(1))
	var through, bare []time.Duration
	waker := newWaker(b)
	for n := range b.N {
		time.Sleep(20 * time.Millisecond)
		begin := time.Now()
		if err := from.Send(0, numbered(addr(1), addr(0), 60, uint32(n))); err != nil {
			b.Fatal(err)
		}
		if _, err := to.Spin(0, time.Second); err != nil {
			b.Fatal(err)
		}
		through = append(through, time.Since(begin))
		time.Sleep(20 * time.Millisecond)
		bare = append(bare, waker.wake())
	}
	for name, l := range map[string][]time.Duration{"switch": through, "bare": bare} {
		sort.Slice(l, func(i, j int) bool { return l[i] < l[j] })
		b.ReportMetric(float64(l[len(l)/2].Nanoseconds())/1000, name+"-p50-µs")
		b.ReportMetric(float64(l[len(l)*9/10].Nanoseconds())/1000, name+"-p90-µs")
	}
}
