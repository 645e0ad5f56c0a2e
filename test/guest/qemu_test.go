package guest

import (
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]Version{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright": {7, 2},
		"QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)":                       {10, 0},
		"QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)":                  {8, 2},
		"QEMU emulator version 9.2.3 (qemu-9.2.3-1.fc42)":                           {9, 2},
	} {
		if got, err := parseVersion(text); err != nil || got != want {
			t.Errorf("parseVersion(%q) = %v, %v", text, got, err)
		}
	}
	if _, err := parseVersion("no such thing"); err == nil {
		t.Error("no error for text without a version")
	}
}

func TestVersionAtLeast(t *testing.T) {
	for _, c := range []struct {
		v            Version
		major, minor int
		want         bool
	}{
		{Version{9, 2}, 9, 2, true}, {Version{9, 1}, 9, 2, false}, {Version{10, 0}, 9, 2, true},
		{Version{7, 2}, 9, 1, false}, {Version{8, 9}, 9, 1, false},
	} {
		if got := c.v.AtLeast(c.major, c.minor); got != c.want {
			t.Errorf("%v.AtLeast(%d, %d) = %v", c.v, c.major, c.minor, got)
		}
	}
}

func TestArguments(t *testing.T) {
	old, recent := Version{7, 2}, Version{10, 0}
	for _, c := range []struct {
		name    string
		cfg     Config
		version Version
		want    []string // parts of the joined arguments
		not     []string
		err     string
	}{
		{name: "no network", cfg: Config{}, version: old,
			want: []string{"-machine pc,accel=tcg,memory-backend=mem", "memory-backend-memfd,id=mem,size=256M,share=on", "-smp 1", "-chardev socket,id=agent,fd=3"},
			not:  []string{"virtio-net-pci", "virtio-9p"}},
		{name: "hugepages", cfg: Config{HugepageDir: "/mnt/a,b", MemoryMiB: 512}, version: old,
			want: []string{"memory-backend-file,id=mem,size=512M,share=on,prealloc=on,mem-path=/mnt/a,,b"}, not: []string{"memfd"}},
		{name: "plain vhost-user", cfg: Config{NICs: []NIC{{Socket: "/run/x.sock", MAC: "52:54:00:00:00:01"}}}, version: old,
			want: []string{"-chardev socket,id=chr0,path=/run/x.sock -netdev vhost-user,chardev=chr0,id=net0 -device virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:00:00:01,addr=0x3,romfile=,vectors=0,packed=off,mrg_rxbuf=off"},
			not:  []string{"mq=on", "reconnect", "server", "queues="}},
		{name: "queues", cfg: Config{NICs: []NIC{{Socket: "s", Queues: 4, Packed: true, Mergeable: true, HostMTU: 9000, RXRing: 1024, TXRing: 512}}}, version: old,
			want: []string{"vhost-user,chardev=chr0,queues=4", "mq=on,vectors=0", "packed=on,mrg_rxbuf=on", "host_mtu=9000,rx_queue_size=1024,tx_queue_size=512", "-smp 4"}},
		{name: "one pair with the feature", cfg: Config{NICs: []NIC{{Socket: "s", Queues: 1}}}, version: recent, want: []string{"mq=on,vectors=4"}, not: []string{"queues="}},
		{name: "queues, new", cfg: Config{NICs: []NIC{{Socket: "s", Queues: 4}}}, version: recent, want: []string{"queues=4", "mq=on,vectors=10"}},
		{name: "default vectors, new", cfg: Config{NICs: []NIC{{Socket: "s"}}}, version: recent, not: []string{"vectors"}},
		{name: "old without vhost-user", cfg: Config{NICs: []NIC{{Netdev: "user", Queues: 1}}}, version: old, want: []string{"vectors=4"}},
		{name: "QEMU listens", cfg: Config{NICs: []NIC{{Socket: "s", Server: true, ReconnectSeconds: 1}}}, version: old, want: []string{"server=on,wait=off"}, not: []string{"reconnect"}},
		{name: "reconnect", cfg: Config{NICs: []NIC{{Socket: "s", ReconnectSeconds: 2}}}, version: Version{9, 1}, want: []string{"path=s,reconnect=2"}},
		{name: "reconnect, new", cfg: Config{NICs: []NIC{{Socket: "s", ReconnectSeconds: 2}}}, version: Version{9, 2}, want: []string{"path=s,reconnect-ms=2000"}},
		{name: "in-order", cfg: Config{NICs: []NIC{{Socket: "s", InOrder: true}}}, version: recent, want: []string{"in_order=on"}},
		{name: "in-order, old", cfg: Config{NICs: []NIC{{Socket: "s", InOrder: true}}}, version: old, err: "needs QEMU 9.1"},
		{name: "firmware", cfg: Config{Firmware: true, NICs: []NIC{{Socket: "s"}, {Socket: "t"}}}, version: old,
			want: []string{"-boot n", "netdev=net1,id=nic1,mac=52:54:00:12:34:57,addr=0x4,romfile="}, not: []string{"-kernel", "agent", "addr=0x3,romfile="}},
		{name: "other back-end", cfg: Config{NICs: []NIC{{Netdev: "user", DeviceOptions: "csum=off"}}}, version: old,
			want: []string{"-netdev user,id=net0", ",csum=off"}, not: []string{"chr0"}},
		{name: "host root", cfg: Config{HostRoot: true}, version: old, want: []string{"path=/,security_model=none,readonly=on", "virtio-9p-pci"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := c.cfg.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			args, err := arguments(cfg, machine{version: c.version, accel: "tcg", kernel: "k", initramfs: "i", console: "c", agentFD: 3})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(args, " ")
			for _, w := range c.want {
				if !strings.Contains(all, w) {
					t.Errorf("%q is missing in\n%s", w, all)
				}
			}
			for _, n := range c.not {
				if strings.Contains(all, n) {
					t.Errorf("%q is in\n%s", n, all)
				}
			}
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]Config{
		"neither socket nor netdev": {NICs: []NIC{{}}},
		"socket and netdev":         {NICs: []NIC{{Socket: "a", Netdev: "user"}}},
		"bad address":               {NICs: []NIC{{Socket: "a", MAC: "nonsense"}}},
		"negative queues":           {NICs: []NIC{{Socket: "a", Queues: -1}}},
		"too many":                  {NICs: make([]NIC, maxNICs+1)},
	} {
		if _, err := c.withDefaults(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	given := Config{NICs: []NIC{{Socket: "a"}}}
	if _, err := given.withDefaults(); err != nil || given.NICs[0].MAC != "" {
		t.Errorf("the caller's NICs were changed: %+v, %v", given, err)
	}
}
