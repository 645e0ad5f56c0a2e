package config

import (
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

func testConfig() Config {
	c := DefaultConfig()
	c.ControlSocket = "/run/vhostkit/switchd.sock"
	c.SocketFiles = []string{"/run/vhostkit/vhost.sock"}
	return c
}

func TestDefaultsAreThoseOfTheOldSwitch(t *testing.T) {
	c := testConfig()
	if err := c.Validate(); err != nil {
		t.Fatalf("defaults are not valid: %v", err)
	}
	if c.VM2VM != 1 || !c.RxRetry || c.RxRetryNum != 4 || c.RxRetryDelay != 15 || !c.VLANStrip || c.Mergeable || c.TxCsum || c.TSO ||
		c.Client || c.Promiscuous || c.Stats != 0 || c.Uplink != "none" || c.VLANBase != 1000 {
		t.Errorf("defaults differ: %+v", c)
	}
}

func TestValidateNumbers(t *testing.T) {
	fields := map[string]func(*Config) *int{
		"vm2vm": func(c *Config) *int { return &c.VM2VM }, "stats": func(c *Config) *int { return &c.Stats },
		"rx-retry-num":   func(c *Config) *int { return &c.RxRetryNum },
		"rx-retry-delay": func(c *Config) *int { return &c.RxRetryDelay },
		"vlan-base":      func(c *Config) *int { return &c.VLANBase }, "mtu": func(c *Config) *int { return &c.MTU },
		"max-queue-pairs": func(c *Config) *int { return &c.MaxQueuePairs },
		"max-ports":       func(c *Config) *int { return &c.MaxPorts },
		"mac-limit":       func(c *Config) *int { return &c.MACLimit },
		"address-age":     func(c *Config) *int { return &c.AddressAge },
		"uplink-queues":   func(c *Config) *int { return &c.UplinkQueues },
	}
	want := map[string][2]int{ // by hand: the table of the code must not check itself
		"vm2vm": {0, 2}, "stats": {0, 2147483647}, "rx-retry-num": {0, 2147483647}, "rx-retry-delay": {0, 2147483647},
		"vlan-base": {1, 4094}, "mtu": {68, 9700}, "max-queue-pairs": {1, 128}, "max-ports": {0, 3095}, "mac-limit": {1, 16384},
		"address-age": {0, 2147483647}, "uplink-queues": {0, 64},
	}
	for option, field := range fields {
		r := want[option]
		for _, test := range []struct {
			value int
			good  bool
		}{{r[0], true}, {r[1], true}, {r[0] - 1, false}, {r[1] + 1, false}, {math.MinInt, false}, {math.MaxInt, false}} {
			c := testConfig()
			*field(&c) = test.value
			err := c.Validate()
			if (err == nil) != test.good {
				t.Errorf("--%s %d: error %v, want good=%v", option, test.value, err, test.good)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "--"+option+" ") {
				t.Errorf("--%s %d: error %q does not name the option", option, test.value, err)
			}
		}
	}
}

func TestValidateTexts(t *testing.T) {
	tests := []struct {
		name string
		set  func(*Config)
		want string // part of the error; empty: valid
	}{
		{"uplink none", func(c *Config) { c.Uplink = "none" }, ""},
		{"uplink tap", func(c *Config) { c.Uplink = "tap" }, ""},
		{"uplink tap, 15 characters", func(c *Config) { c.Uplink = "tap:abcdefghijklmno" }, ""},
		{"uplink tap, 16 characters", func(c *Config) { c.Uplink = "tap:abcdefghijklmnop" }, "--uplink"},
		{"uplink tap without its name", func(c *Config) { c.Uplink = "tap:" }, "--uplink"},
		{"uplink tap with a path", func(c *Config) { c.Uplink = "tap:a/b" }, "--uplink"},
		{"uplink none with a name", func(c *Config) { c.Uplink = "none:x" }, "--uplink"},
		{"uplink empty", func(c *Config) { c.Uplink = "" }, "--uplink"},
		{"poll busy", func(c *Config) { c.Poll = "busy" }, ""},
		{"poll else", func(c *Config) { c.Poll = "lazy" }, `--poll must be adaptive or busy, not "lazy"`},
		{"format else", func(c *Config) { c.LogFormat = "xml" }, "--log-format"},
		{"level else", func(c *Config) { c.LogLevel = "loud" }, "--log-level"},
		{"mode", func(c *Config) { c.SocketMode = "0777" }, ""},
		{"mode too large", func(c *Config) { c.SocketMode = "1777" }, "--socket-mode"},
		{"mode not octal", func(c *Config) { c.SocketMode = "0680" }, "--socket-mode"},
		{"no cores", func(c *Config) { c.Cores = nil }, "--cores"},
		{"core too large", func(c *Config) { c.Cores = []int{1024} }, "--cores must be 0..1023, not 1024"},
		{"core too small", func(c *Config) { c.Cores = []int{-2} }, "--cores"},
		{"core twice", func(c *Config) { c.Cores = []int{3, 3} }, "--cores must be a list with each core once"},
		{"socket empty", func(c *Config) { c.SocketFiles = []string{""} }, "--socket-file"},
		{"socket at the limit", func(c *Config) { c.SocketFiles = []string{strings.Repeat("s", 98)} }, ""},
		{"socket over the limit", func(c *Config) { c.SocketFiles = []string{strings.Repeat("s", 99)} }, "1..98 bytes"},
		{"client socket at the limit", func(c *Config) { c.Client, c.SocketFiles = true, []string{strings.Repeat("s", 107)} }, ""},
		{"client socket over the limit", func(c *Config) { c.Client, c.SocketFiles = true, []string{strings.Repeat("s", 108)} }, "1..107 bytes"},
		{"socket twice", func(c *Config) { c.SocketFiles = []string{"/a/b", "/a//b"} }, "a different path each time"},
		{"control empty", func(c *Config) { c.ControlSocket = "" }, "--control"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := testConfig()
			test.set(&c)
			err := c.Validate()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestValidateReportsEverything(t *testing.T) {
	c := testConfig()
	c.VM2VM, c.Poll, c.MTU = 3, "x", 0
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"3 settings are wrong", "--vm2vm must be 0..2, not 3", "--poll", "--mtu must be 68..9700, not 0"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	var r *RangeError
	if !errors.As(err, &r) {
		t.Error("callers cannot find the RangeError")
	}
}

func TestLoadFile(t *testing.T) {
	tests := []struct {
		name, text string
		want       string // part of the error; empty: none
		notices    int
	}{
		{"empty", "", "", 0},
		{"flat, as before", "cores = [2, 3]\nvm2vm = 0\nmergeable = true\npoll = \"busy\"\nsocket-file = [\"/a\", \"/b\"]\n", "", 5},
		{"sections", "[workers]\ncores = \"2-3\"\npoll = \"busy\"\n[ports]\nvm2vm = 0\nmergeable = 1\n[guests]\nsocket-file = [\"/a\", \"/b\"]\n",
			"", 0},
		{"flat and in the section, equal", "vm2vm = 1\n[ports]\nvm2vm = 1\n", "", 1},
		{"flat and in the section, different", "vm2vm = 0\n[ports]\nvm2vm = 1\n",
			`switchd.toml:1: setting "vm2vm" is there twice, as 0 and below [ports] as 1`, 0},
		{"unknown key", "vm2vm = 1\n\nvm2wm = 0\n", `switchd.toml:3: unknown setting "vm2wm" (did you mean "vm2vm"?)`, 0},
		{"unknown keys", "a = 1\nvm2vm = 1\nb = 2\n", `switchd.toml:3: unknown setting "b"`, 0},
		{"unknown key of a section", "[ports]\nvm2vm = 1\n[uplink]\nuplnk = \"tap\"\n", `switchd.toml:4: unknown setting "uplnk" (did you mean "uplink"?)`, 0},
		{"unknown section", "vm2vm = 1\n[port]\nx = 1\n", `switchd.toml:2: unknown section "port" (did you mean "ports"?)`, 0},
		{"another section's key", "[ports]\nmac-limit = 1\n", `switchd.toml:2: setting "mac-limit" belongs below [limits]`, 0},
		{"key and section of the uplink", "uplink = \"tap\"\n[uplink]\nvmdq = \"64x2\"\n", "write the key uplink below [uplink]", 0},
		{"wrong type", "vm2vm = 1\nmtu = \"big\"\n", `switchd.toml:2: mtu must be 68..9700, not "big"`, 0},
		{"no boolean", "mergeable = 2\n", "switchd.toml:1: mergeable must be 0 or 1 (or false or true), not 2", 0},
		{"two are wrong", "mtu = \"big\"\npoll = 1\n", "switchd.toml:2: poll must be adaptive or busy, not 1", 0},
		{"not TOML", "vm2vm = 1\n= =\n", "line 2", 0},
		{"of the command line only", "cpuprofile = \"x\"\n", "unknown setting", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := testConfig()
			err := c.LoadFile(write(t, test.text))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
			if err == nil && len(c.Notices) != test.notices {
				t.Errorf("notices %q, want %d", c.Notices, test.notices)
			}
			if (test.name == "sections" || test.name == "flat, as before") && (c.VM2VM != 0 || !c.Mergeable || c.Poll != "busy" ||
				!slices.Equal(c.Cores, []int{2, 3}) || !slices.Equal(c.SocketFiles, []string{"/a", "/b"}) || c.MTU != 1500) {
				t.Errorf("read as %+v", c)
			}
		})
	}
	c := testConfig()
	if err := c.LoadFile("/nonexistent/switchd.toml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestParseCores(t *testing.T) {
	for text, want := range map[string][]int{
		"0": {0}, "1-3": {1, 2, 3}, "5,1-2": {1, 2, 5}, "1,1,0-1": {0, 1}, "1023": {1023}, "7-7": {7},
		"": nil, "a": nil, "3-1": nil, "1-": nil, "-1": nil, "1,,2": nil, "1024": nil, "0-1024": nil, " 1": nil, "1-2-3": nil,
		"0-99999999999999999999": nil,
	} {
		got, err := ParseCores(text)
		if (err == nil) != (want != nil) || !slices.Equal(got, want) {
			t.Errorf("ParseCores(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestKeepPresentCores(t *testing.T) {
	allowed := keys(allowedCores())
	if len(allowed) == 0 {
		t.Fatal("no core that this process may use")
	}
	here, gone := allowed[0], 1023
	if slices.Contains(allowed, gone) {
		t.Fatalf("a machine with core %d: choose another one for this test", gone)
	}
	tests := []struct {
		name  string
		cores []int
		main  int
		want  []int
		warns bool
	}{
		{"all here", []int{here}, -1, []int{here}, false},
		{"not pinned", []int{-1}, -1, []int{-1}, false},
		{"one gone", []int{here, gone}, -1, []int{here}, true},
		{"only the main core is here", []int{gone}, here, []int{here}, true},
		{"none here", []int{gone}, -1, nil, false},
		{"none here, main neither", []int{gone}, gone, nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := testConfig()
			c.Cores, c.MainCore = test.cores, test.main
			err := c.KeepPresentCores()
			if (err != nil) != (test.want == nil) {
				t.Fatalf("error %v", err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), "1023") {
					t.Errorf("error %q does not name the core", err)
				}
				return
			}
			if !slices.Equal(c.Cores, test.want) {
				t.Errorf("cores %v, want %v", c.Cores, test.want)
			}
			if named := len(c.Warnings) == 1 && strings.Contains(c.Warnings[0], "1023"); named != test.warns {
				t.Errorf("warnings %q", c.Warnings)
			}
		})
	}
}
