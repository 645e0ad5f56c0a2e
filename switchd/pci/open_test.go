package pci_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink/ixgbe/regs"
	"vhostkit/test/nic82599"
)

// host is a machine made of files.
func host(t *testing.T, files map[string]string, links map[string]string) pci.Host {
	t.Helper()
	root := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, text := range files {
		if err := os.WriteFile(write(name), []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range links {
		if err := os.Symlink(to, write(name)); err != nil {
			t.Fatal(err)
		}
	}
	return pci.Host{Sys: filepath.Join(root, "sys"), Proc: filepath.Join(root, "proc"), Addresses: func(string) []string { return nil }}
}

const at = "sys/bus/pci/devices/0000:03:00.0/"

// Each thing that can be missing has a message of its own, with what to type.
func TestOpenSaysWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		name, address string
		files, links  map[string]string
		want          []string
	}{
		{"no address", "eth0", nil, nil, []string{`"eth0" is no PCI address`}},
		{"no device", "03:00.0", nil, nil, []string{"no PCI device 0000:03:00.0"}},
		{"the kernel has it", "03:00.0", map[string]string{at + "net/eth7/x": ""}, map[string]string{at + "driver": "/drivers/ixgbe"},
			[]string{"driver ixgbe has it as eth7", "vhostctl nic bind 0000:03:00.0"}},
		{"no IOMMU", "03:00.0", map[string]string{at + "vendor": "0x8086"}, nil, []string{"no IOMMU group", "intel_iommu=on", "--unprotected-dma 1"}},
		{"not bound", "03:00.0", map[string]string{at + "vendor": "0x8086"}, map[string]string{at + "iommu_group": "/groups/7"}, []string{"vhostctl nic bind 0000:03:00.0"}},
		{"vfio-pci without an IOMMU", "03:00.0", map[string]string{at + "vendor": "0x8086"}, map[string]string{at + "driver": "/drivers/vfio-pci"}, []string{"no IOMMU group"}},
		{"no socket", "vfio-user:/nowhere/at/all", nil, nil, []string{"vfio-user:/nowhere/at/all", "no such file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := pci.Open(c.address, pci.Options{Host: host(t, c.files, c.links)})
			if err == nil {
				t.Fatal("it was opened")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q says nothing about %q", err, want)
				}
			}
		})
	}
}

func TestInUse(t *testing.T) {
	route := "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\neth1\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth2\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"
	route6 := "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth4"
	h := host(t, map[string]string{"proc/net/route": route, "proc/net/ipv6_route": route6}, map[string]string{"sys/class/net/eth3/master": "../br0"})
	h.Addresses = func(name string) []string {
		if name == "eth5" {
			return []string{"192.0.2.1/24"}
		}
		return nil
	}
	for name, want := range map[string]string{"eth1": "default route", "eth2": "", "eth3": "port of br0", "eth4": "default route", "eth5": "192.0.2.1/24", "eth6": ""} {
		if got := h.InUse(name); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestInUseAbove: what is built on an interface goes away with it.
func TestInUseAbove(t *testing.T) {
	link := func(from, to string) [2]string {
		return [2]string{"sys/class/net/" + from + "/upper_" + to, "../../../virtual/net/" + to}
	}
	links := map[string]string{"sys/class/net/v.3/master": "../br0"}
	for _, l := range [][2]string{link("vlan", "v.1"), link("stack", "s.1"), link("s.1", "s.1.2"), link("s.1.2", "mv0"), link("bridged", "v.2"), link("bridged", "v.3"), link("routed", "r.9"),
		link("tapped", "macvtap0"), link("loop", "loop2"), link("loop2", "loop"), link("bonded", "bond0")} {
		links[l[0]] = l[1]
	}
	links["sys/class/net/bonded/master"] = "../bond0"
	route := "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\nr.9\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0"
	h := host(t, map[string]string{"proc/net/route": route, "sys/class/net/free/operstate": "up"}, links)
	h.Addresses = func(name string) []string {
		return map[string][]string{"v.1": {"192.0.2.1/24"}, "mv0": {"192.0.2.2/24"}}[name]
	}
	for name, want := range map[string][]string{
		"vlan": {"v.1 on vlan has the address 192.0.2.1/24"}, "stack": {"mv0 on s.1.2 on s.1 on stack has the address 192.0.2.2/24"}, "bridged": {"v.3 on bridged is a port of br0"},
		"routed": {"the default route goes over r.9 on routed"}, "tapped": {"tapped carries macvtap0"}, "loop": {"carries"}, "bonded": {"bonded is a port of bond0"}, "free": nil,
	} {
		got := h.InUse(name)
		if (got == "") != (want == nil) {
			t.Errorf("%s: %q", name, got)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q, want %q", name, got, w)
			}
		}
	}
	b := pci.Binder{Host: h}
	for path, text := range map[string]string{"net/vlan/x": "", "class": "0x020000", "vendor": "0x8086", "device": "0x10fb"} {
		path = filepath.Join(h.Sys, "bus/pci/devices/0000:03:00.0", path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if steps, err := b.PlanBind("0000:03:00.0", "uio_pci_generic", false); !errors.Is(err, pci.ErrInUse) || !strings.Contains(err.Error(), "v.1") {
		t.Errorf("bind: %v, %v", steps, err)
	}
}

// TestVFIOUser opens the model of the 82599 that another goroutine serves, and uses everything that a driver needs.
func TestVFIOUser(t *testing.T) {
	wire := nic82599.NewPair(64)
	n := nic82599.New(nic82599.Config{Wire: wire})
	defer n.Close()
	path := filepath.Join(t.TempDir(), "card")
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- n.Serve(ctx, path, nil) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	var d pci.Device
	var err error
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if d, err = pci.Open("vfio-user:"+path, pci.Options{}); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if id, err := d.ReadConfig(0, 4); err != nil || id != regs.Device82599<<16|regs.VendorIntel {
		t.Errorf("ids %#x, %v", id, err)
	}
	if command, _ := d.ReadConfig(4, 2); command&6 != 6 {
		t.Errorf("command %#x: memory and bus master are off", command)
	}
	r, err := d.BAR(0)
	if err != nil || r.Len() != regs.BARSize {
		t.Fatalf("%v, %v", r, err)
	}
	sendOne(t, n, d, r, wire)
	if _, err := d.BAR(2); !errors.Is(err, pci.ErrUnsupported) {
		t.Errorf("a BAR that is not there: %v", err)
	}
	call, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(call)
	if err := d.Interrupt(3, call); err != nil {
		t.Fatal(err)
	}
	r.Write32(regs.EIMS_EX(0), 1<<3)
	r.Write32(regs.EICS_EX(0), 1<<3)
	r.Read32(regs.STATUS) // behind the writes
	var count [8]byte
	if n, err := unix.Read(call, count[:]); n != 8 || err != nil {
		t.Errorf("no interrupt: %v", err)
	}
	if err := d.Interrupt(64, call); !errors.Is(err, pci.ErrUnsupported) {
		t.Errorf("a vector that is not there: %v", err)
	}
	if err := d.Reset(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	served <- nil
	if got := r.Read32(regs.STATUS); got != 0xffffffff {
		t.Errorf("a register of a device that is gone reads %#x", got)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	for _, v := range n.Violations() {
		t.Error(v)
	}
}

// sendOne sends a frame from memory of a region and one from the device's own, and takes both away again.
func sendOne(t *testing.T, n *nic82599.NIC, d pci.Device, r pci.Registers, wire *nic82599.Pair) {
	t.Helper()
	ring, err := d.AllocDMA(4096)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 8192); err != nil {
		t.Fatal(err)
	}
	guest, err := unix.Mmap(fd, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(guest) }()
	region := pci.Region{Addr: guestmem.AddressOf(guest) + 4096, FD: fd, Offset: 4096, Size: 4096}
	iova, err := d.MapRegion(region)
	if err != nil {
		t.Fatal(err)
	}
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}, slices.Repeat([]byte("guest"), 20)...)
	copy(guest[4096+64:], frame)
	r.Write32(regs.ESDP, r.Read32(regs.ESDP)&^regs.ESDP_SDP3) // the laser
	r.Write32(regs.DMATXCTL, regs.DMATXCTL_TE)
	r.Write32(regs.DCA_TXCTRL(0), 0)
	r.Write32(regs.TDBAL(0), uint32(ring.IOVA))
	r.Write32(regs.TDBAH(0), uint32(ring.IOVA>>32))
	r.Write32(regs.TDLEN(0), 4096)
	r.Write32(regs.TXDCTL(0), regs.TXDCTL_ENABLE)
	ring.Addr.StoreU64(iova + 64)
	(ring.Addr + 8).StoreU64(uint64(len(frame))<<(32+regs.TXD_PAYLEN_SHIFT) | uint64(len(frame)) | regs.TXD_DTYP_DATA | regs.TXD_EOP | regs.TXD_IFCS | regs.TXD_DEXT | regs.TXD_RS)
	r.Write32(regs.TDT(0), 1)
	select {
	case got := <-wire.Out:
		if !slices.Equal(got, frame) {
			t.Errorf("on the wire: %x", got)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nothing on the wire")
	}
	for end := time.Now().Add(5 * time.Second); (ring.Addr+12).LoadU32()&regs.TXD_DD == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the descriptor is not written back")
		}
	}
	if err := d.UnmapRegion(iova, region.Size); err != nil {
		t.Error(err)
	}
	r.Write32(regs.TXDCTL(0), 0)
	if err := d.FreeDMA(ring); err != nil {
		t.Error(err)
	}
	if err := d.FreeDMA(ring); err == nil {
		t.Error("memory was given back twice")
	}
}
