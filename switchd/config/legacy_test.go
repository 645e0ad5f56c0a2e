package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func parseLegacy(line string) (Config, error) {
	return ParseLegacy(strings.Fields(line), DefaultConfig())
}

// guideLines are the command lines of the guide to DPDK's vhost sample and what they mean there.
var guideLines = []struct {
	line  string
	check func(Config) bool
}{
	{"-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- -p 0x1 --dev-basename usvhost", func(c Config) bool {
		return c.PortMask == 1 && slices.Equal(c.SocketFiles, []string{"usvhost"}) && c.MainCore == 0 && slices.Equal(c.Cores, []int{1, 2, 3})
	}},
	{"-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- --vm2vm 0", func(c Config) bool { return c.VM2VM == 0 && c.PortMask == 0 }},
	{"-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- --vm2vm 2", func(c Config) bool { return c.VM2VM == 2 }},
	{"-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- --mergeable 1", func(c Config) bool { return c.Mergeable }},
	{"-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- --stats 3", func(c Config) bool { return c.Stats == 3 }},
	{"-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- --rx-retry 0", func(c Config) bool { return !c.RxRetry }},
	{"-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- --rx-retry 1 --rx-retry-num 5", func(c Config) bool {
		return c.RxRetry && c.RxRetryNum == 5 && c.RxRetryDelay == 15
	}},
	{"-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- --rx-retry 1 --rx-retry-delay 20", func(c Config) bool {
		return c.RxRetry && c.RxRetryNum == 4 && c.RxRetryDelay == 20
	}},
	{"-c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- --vlan-strip 0", func(c Config) bool { return !c.VLANStrip }},
}

func TestLegacyGuideLines(t *testing.T) {
	for _, test := range guideLines {
		if !IsLegacy(strings.Fields(test.line)) {
			t.Errorf("%s: not recognised", test.line)
		}
		c, err := parseLegacy(test.line)
		if err != nil || !test.check(c) {
			t.Errorf("%s: %+v, error %v", test.line, c, err)
		}
		if len(c.Notices) != 3 {
			t.Errorf("%s: notices %q, want one each for -n, --socket-mem and --huge-dir", test.line, c.Notices)
		}
	}
}

func TestLegacyOptions(t *testing.T) {
	tests := []struct {
		line  string
		check func(Config) bool // nil: an error that contains want
		want  string
	}{
		{"--", func(c Config) bool {
			return slices.Equal(c.SocketFiles, []string{"vhost-net"}) && slices.Equal(c.Cores, []int{-1}) && c.VM2VM == 1
		}, ""},
		{"-- --vm2vm=0 --mergeable=1 --stats=9 --rx-retry=0 --rx-retry-num=7 --rx-retry-delay=8 --vlan-strip=0 --tx-csum=1 --tso=1 --client -P -p 8",
			func(c Config) bool {
				return c.VM2VM == 0 && c.Mergeable && c.Stats == 9 && !c.RxRetry && c.RxRetryNum == 7 && c.RxRetryDelay == 8 && !c.VLANStrip &&
					c.TxCsum && c.TSO && c.Client && c.Promiscuous && c.PortMask == 8
			}, ""},
		{"-- --socket-file /a --socket-file=/b", func(c Config) bool { return slices.Equal(c.SocketFiles, []string{"/a", "/b"}) }, ""},
		{"-- --dev-basename longer-than-nine", func(c Config) bool { return slices.Equal(c.SocketFiles, []string{"longer-than-nine"}) }, ""},
		{"-- --dev-basename x --socket-file /a", func(c Config) bool { return slices.Equal(c.SocketFiles, []string{"x", "/a"}) }, ""},
		{"-cf -n4 --", func(c Config) bool { return slices.Equal(c.Cores, []int{1, 2, 3}) }, ""},
		{"-c 0XF0 --", func(c Config) bool { return c.MainCore == 4 && slices.Equal(c.Cores, []int{5, 6, 7}) }, ""},
		{"-c 4 --", func(c Config) bool { return c.MainCore == 2 && slices.Equal(c.Cores, []int{2}) }, ""},
		{"-c 30000000000000000 --", func(c Config) bool { return c.MainCore == 64 && slices.Equal(c.Cores, []int{65}) }, ""},
		{"-l 3,1-2 --", func(c Config) bool { return c.MainCore == 1 && slices.Equal(c.Cores, []int{2, 3}) }, ""},
		{"-l 1-3 --main-lcore 2 --", func(c Config) bool { return c.MainCore == 2 && slices.Equal(c.Cores, []int{1, 3}) }, ""},
		{"--master-lcore=0 -c 3 --", func(c Config) bool { return c.MainCore == 0 && slices.Equal(c.Cores, []int{1}) }, ""},
		{"-m 64 --file-prefix=a --proc-type auto -w 0:1 -w 0:2 --no-pci --no-huge --log-level 8 --vdev=net_x,a=b --lcores 1 -b 1 -a 2 --",
			func(c Config) bool { return len(c.Notices) == 11 }, ""},
		{"-- --dmas [txd0@00:04.0] --total-num-mbufs 9 --builtin-net-driver", func(c Config) bool { return len(c.Notices) == 3 }, ""},
		{"-- --rx-retry-num 2147483647", func(c Config) bool { return c.RxRetryNum == 2147483647 }, ""},

		{"-- --vm2vm 3", nil, `--vm2vm must be 0..2, not "3"`},
		{"-- --vm2vm -1", nil, `--vm2vm must be 0..2, not "-1"`},
		{"-- --vm2vm [0,1,2]", nil, `--vm2vm must be 0..2, not "[0,1,2]"`},
		{"-- --vm2vm 1x", nil, "must be 0..2"},
		{"-- --vm2vm=", nil, "must be 0..2"},
		{"-- --vm2vm", nil, "--vm2vm needs a value"},
		{"-- --mergeable 2", nil, `--mergeable must be 0 or 1 (or false or true), not "2"`},
		{"-- --rx-retry 2", nil, "--rx-retry"},
		{"-- --vlan-strip yes", nil, `--vlan-strip must be 0 or 1 (or false or true), not "yes"`},
		{"-- --tx-csum 2", nil, "--tx-csum"},
		{"-- --tso 2", nil, "--tso"},
		{"-- --stats 2147483648", nil, `--stats must be 0..2147483647, not "2147483648"`},
		{"-- --rx-retry-num -1", nil, "--rx-retry-num"},
		{"-- --rx-retry-delay 99999999999999999999", nil, "--rx-retry-delay"},
		{"-- -p 0", nil, "exactly one bit"},
		{"-- -p 3", nil, "exactly one bit"},
		{"-- -p 1x", nil, "exactly one bit"},
		{"-- -p 0x", nil, "exactly one bit"},
		{"-- -p 100000000", nil, "exactly one bit"},
		{"-- --client=1", nil, "--client takes no value"},
		{"-- --dev-basename=", nil, "--dev-basename"},
		{"-- --socket-file=", nil, "--socket-file"},
		{"-- -c f", nil, `"-c" is not an option after --`},
		{"-- extra", nil, `"extra" is not an option after --`},
		{"-c f -p 1 --", nil, `"-p" is not an option before --`},
		{"-c 0 --", nil, `not "0"`},
		{"-c 0x --", nil, `not "0x"`},
		{"-c 0x0xf --", nil, "-c"},
		{"-c g --", nil, "-c"},
		{"-c", nil, "-c needs a value"},
		{"-l 3-1 --", nil, "-l"},
		{"-n 0 --", nil, `-n must be 1..32, not "0"`},
		{"-n 33 --", nil, "-n"},
		{"--socket-mem x --", nil, "--socket-mem"},
		{"-c 3 --main-lcore 2 --", nil, "--main-lcore must be one of the cores [0 1], not 2"},
	}
	for _, test := range tests {
		c, err := parseLegacy(test.line)
		switch {
		case test.check != nil:
			if err != nil || !test.check(c) {
				t.Errorf("%s: %+v, error %v", test.line, c, err)
			}
		case err == nil || !strings.Contains(err.Error(), test.want) || !errors.Is(err, ErrUsage):
			t.Errorf("%s: error %v, want ErrUsage with %q", test.line, err, test.want)
		}
	}
}

func TestLegacySocketIsNotTheFiles(t *testing.T) {
	defaults := DefaultConfig()
	defaults.SocketFiles, defaults.Mergeable = []string{"/from/the/file"}, true
	c, err := ParseLegacy([]string{"-c", "1", "--"}, defaults)
	if err != nil || !slices.Equal(c.SocketFiles, []string{"vhost-net"}) || !c.Mergeable {
		t.Errorf("%+v, error %v", c, err)
	}
}

func TestIsLegacy(t *testing.T) {
	for line, want := range map[string]bool{
		"-c f": true, "-cf": true, "-c0x3": true, "-l 0-1": true, "-l0-1": true, "-n4": true, "--socket-mem=1": true, "--huge-dir /x": true,
		"-- -p 1": true, "": false, "--socket-file /a": false, "-p 1": false, "-client": false, "-cores 1-3": false, "-control x": false,
		"-log-level debug": false, "--uplink tap:vhk0": false, "--config x": false, "-cpuprofile x": false, "-check-config": false,
	} {
		if got := IsLegacy(strings.Fields(line)); got != want {
			t.Errorf("IsLegacy(%q) = %v", line, got)
		}
	}
}

// FuzzParseLegacy: no command line may crash the parser, and what it accepts makes sense.
func FuzzParseLegacy(f *testing.F) {
	for _, test := range guideLines {
		f.Add(strings.ReplaceAll(test.line, " ", "\x00"))
	}
	for _, seed := range []string{"-cf\x00--\x00-p=1", "--main-lcore\x001\x00-l\x000-3\x00--\x00--socket-file=/a\x00--client", "-c\x000x", "--"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\x00")
		before := slices.Clone(args)
		c, err := ParseLegacy(args, DefaultConfig())
		if !slices.Equal(args, before) {
			t.Fatal("the arguments were changed")
		}
		if err != nil {
			if !errors.Is(err, ErrUsage) {
				t.Fatalf("error %v is not ErrUsage", err)
			}
			return
		}
		if len(c.SocketFiles) == 0 || len(c.Cores) == 0 {
			t.Fatalf("accepted %q without a socket or a core: %+v", args, c)
		}
		if c.VM2VM < 0 || c.VM2VM > 2 || c.RxRetryNum < 0 || c.RxRetryDelay < 0 || c.Stats < 0 || c.PortMask&(c.PortMask-1) != 0 {
			t.Fatalf("accepted %q: %+v", args, c)
		}
		if !slices.IsSorted(c.Cores) || len(slices.Compact(slices.Clone(c.Cores))) != len(c.Cores) {
			t.Fatalf("cores %v of %q", c.Cores, args)
		}
	})
}
