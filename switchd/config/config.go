// Package config has the settings of switchd: their defaults, the configuration file, the command lines of DPDK's vhost sample, and the checks.
// It knows nothing of the switch.
package config

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/hashicorp/go-multierror"
)

// MaxPorts is the highest --max-ports: forward.MaxPorts, which this package does not import.
const MaxPorts = 3095

// UplinkIXGBE is the kind of uplink in "ixgbe" and "ixgbe:ADDRESS".
const UplinkIXGBE = "ixgbe"

// DefaultConfigFile is read when it exists and no other is named.
const DefaultConfigFile = "/etc/vhostkit/switchd.toml"

// Config is everything that can be set. The toml names are the long options' names.
type Config struct {
	Cores    CoreList `toml:"cores"` // one worker each; -1 is a worker that is not pinned
	MainCore int      `toml:"-"`     // of the old command lines; -1: none

	SocketFiles []string `toml:"socket-file"` // shared sockets: each connection is a device
	Client      bool     `toml:"client"`      // connect to the sockets instead of making them
	SocketGroup string   `toml:"socket-group"`
	SocketMode  string   `toml:"socket-mode"` // octal
	SocketDir   string   `toml:"socket-dir"`  // of named ports' sockets
	StateDir    string   `toml:"state-dir"`   // where named ports are remembered

	Backend     string   `toml:"backend"`      // "vhost-user", "cuse" or "both"
	CUSEDevices []string `toml:"dev-basename"` // names of character devices below /dev, of --backend cuse and both
	CUSEGroup   string   `toml:"cuse-group"`
	CUSEMode    string   `toml:"cuse-mode"` // octal

	// UnsafeMemoryFiles lets guests' memory lie in files of other file systems than tmpfs and hugetlbfs, which may stop the switch.
	UnsafeMemoryFiles bool `toml:"unsafe-memory-files"`

	ControlSocket string   `toml:"control"`
	QEMUSocket    string   `toml:"qemu-socket"` // where QEMU processes ask for ports and devices; "none": nowhere
	QEMUGroup     string   `toml:"qemu-group"`  // who may
	Devices       []string `toml:"device"`      // character devices that they may ask for

	Uplink       string `toml:"uplink"`        // "none", "tap", "tap:NAME", "ixgbe", "ixgbe:ADDRESS"
	UplinkQueues int    `toml:"uplink-queues"` // 0: one per worker
	PortMask     uint64 `toml:"-"`             // -p: which 82599
	VMDq         string `toml:"vmdq"`          // how an 82599's queues are divided
	AntiSpoof    bool   `toml:"anti-spoof"`    // let an 82599 check source addresses and VLANs
	// UnprotectedDMA allows an 82599 without an IOMMU, which can then reach all memory of the machine.
	UnprotectedDMA bool `toml:"unprotected-dma"`
	ZeroCopy       bool `toml:"zero-copy"` // let an 82599 read frames from guests' memory
	Promiscuous    bool `toml:"promiscuous"`

	VM2VM        int  `toml:"vm2vm"`
	Mergeable    bool `toml:"mergeable"`
	Stats        int  `toml:"stats"` // seconds between statistics on the screen; 0: none
	RxRetry      bool `toml:"rx-retry"`
	RxRetryNum   int  `toml:"rx-retry-num"`
	RxRetryDelay int  `toml:"rx-retry-delay"` // microseconds
	VLANStrip    bool `toml:"vlan-strip"`
	VLANBase     int  `toml:"vlan-base"`
	TxCsum       bool `toml:"tx-csum"`
	TSO          bool `toml:"tso"`

	Poll          string `toml:"poll"`            // "adaptive" or "busy"
	MTU           int    `toml:"mtu"`             // bytes
	MaxQueuePairs int    `toml:"max-queue-pairs"` // per device
	MaxPorts      int    `toml:"max-ports"`       // 0: as many as fit
	MACLimit      int    `toml:"mac-limit"`       // addresses per port
	AddressAge    int    `toml:"address-age"`     // seconds; 0: never
	// MaxGuestMemory bounds what a guest's front-end may have mapped; 0: twice the host's RAM and swap.
	MaxGuestMemory ByteSize `toml:"max-guest-memory"`

	LogFormat  string `toml:"log-format"` // "text" or "json"
	LogLevel   string `toml:"log-level"`
	CPUProfile string `toml:"-"`
	CheckOnly  bool   `toml:"-"` // --check-config

	Notices  []string `toml:"-"` // one log line each, written at the start
	Warnings []string `toml:"-"` // the same, as warnings
}

// DefaultConfig is what holds where neither file nor command line says otherwise.
func DefaultConfig() Config {
	run, state := "/run/vhostkit", "/var/lib/vhostkit"
	if os.Geteuid() != 0 {
		run = filepath.Join(os.TempDir(), fmt.Sprintf("vhostkit-%d", os.Geteuid()))
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
			run = filepath.Join(dir, "vhostkit")
		}
		state = run
	}
	return Config{
		Cores: []int{-1}, MainCore: -1,
		SocketMode: "0660", SocketDir: filepath.Join(run, "ports"), StateDir: state, ControlSocket: filepath.Join(run, "switchd.sock"),
		QEMUGroup: "kvm", Backend: backendUser, CUSEGroup: "kvm", CUSEMode: "0660",
		Uplink: "none", VM2VM: 1, RxRetry: true, RxRetryNum: 4, RxRetryDelay: 15, VLANStrip: true, VLANBase: 1000, VMDq: "64x2",
		Poll: "adaptive", MTU: 1500, MaxQueuePairs: 16, MACLimit: 64, AddressAge: 300, LogFormat: "text", LogLevel: "info",
	}
}

// DefaultSocket is the shared socket of the new command line.
func DefaultSocket(c Config) string {
	return filepath.Join(filepath.Dir(c.ControlSocket), "vhost.sock")
}

// QEMUSocket is where QEMU processes ask: beside the control socket where nothing else is said.
func QEMUSocket(c Config) string {
	if c.QEMUSocket == "" {
		return filepath.Join(filepath.Dir(c.ControlSocket), "qemu.sock")
	}
	return c.QEMUSocket
}

// LoadFile reads a TOML file over the present values. Unknown keys are errors.
func (c *Config) LoadFile(path string) error {
	meta, err := toml.DecodeFile(path, c)
	if err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	unknown := &multierror.Error{ErrorFormat: formatErrors}
	for _, key := range meta.Undecoded() {
		unknown = multierror.Append(unknown, fmt.Errorf("configuration file %s:%s unknown key %q; the keys are the long options' names",
			path, keyLine(path, key), key))
	}
	return unknown.ErrorOrNil()
}

// keyLine finds the line of a key, as "7:", because the decoder does not tell. It is empty where the file writes the key in another way.
func keyLine(path string, key toml.Key) string {
	data, err := os.ReadFile(path)
	if err != nil || len(key) == 0 {
		return ""
	}
	last := key[len(key)-1]
	for i, line := range strings.Split(string(data), "\n") {
		name, _, isPair := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		if !isPair {
			name = strings.Trim(name, "[] \t")
		}
		if strings.Trim(name, `"'`) == last {
			return strconv.Itoa(i+1) + ":"
		}
	}
	return ""
}

// formatErrors puts one error on the line, and several on lines of their own.
func formatErrors(list []error) string {
	if len(list) == 1 {
		return list[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d settings are wrong:", len(list))
	for _, err := range list {
		fmt.Fprintf(&b, "\n  %v", err)
	}
	return b.String()
}

// RangeError says that an option's value is not possible.
type RangeError struct {
	Option, Value, Want string
}

func (e *RangeError) Error() string { return fmt.Sprintf("%s %s: want %s", e.Option, e.Value, e.Want) }

// ranges are the bounds of the numbers that can be set, by option.
var ranges = map[string][2]int{
	"vm2vm": {0, 2}, "stats": {0, math.MaxInt32}, "rx-retry-num": {0, math.MaxInt32}, "rx-retry-delay": {0, math.MaxInt32},
	"vlan-base": {1, 4094}, "mtu": {68, 9700}, "max-queue-pairs": {1, 128}, "max-ports": {0, MaxPorts}, "mac-limit": {1, 16384},
	"address-age": {0, math.MaxInt32}, "uplink-queues": {0, 64},
	"anti-spoof": {0, 1}, "unprotected-dma": {0, 1}, "zero-copy": {0, 1}, "unsafe-memory-files": {0, 1}, "rx-retry": {0, 1}, "mergeable": {0, 1}, "vlan-strip": {0, 1}, "tx-csum": {0, 1}, "tso": {0, 1},
}

// Range tells the smallest and the largest value of a long option (without dashes) that takes a number; ok is false for any other option.
func Range(option string) (low, high int, ok bool) {
	r, ok := ranges[option]
	return r[0], r[1], ok
}

func intRange(option string, value int) error {
	if low, high, _ := Range(option); value < low || value > high {
		return &RangeError{"--" + option, strconv.Itoa(value), fmt.Sprintf("%d..%d", low, high)}
	}
	return nil
}

// Longest paths in bytes: sun_path holds 107 and a NUL. A socket that is made here is bound under a longer name first, then renamed.
const (
	maxSocketPath = 107
	maxListenPath = maxSocketPath - len(".") - len(".4194304")
)

func socketPath(option, path string, longest int) error {
	if path == "" || len(path) > longest || strings.ContainsRune(path, 0) {
		return &RangeError{option, strconv.Quote(path), fmt.Sprintf("a path of 1..%d bytes", longest)}
	}
	return nil
}

func oneOf(option, value string, choices ...string) error {
	for _, c := range choices {
		if value == c {
			return nil
		}
	}
	return &RangeError{option, strconv.Quote(value), strings.Join(choices, " or ")}
}

// Validate checks all values and reports every one that is wrong.
func (c *Config) Validate() error {
	all := &multierror.Error{ErrorFormat: formatErrors}
	for _, err := range []error{
		intRange("vm2vm", c.VM2VM),
		intRange("stats", c.Stats),
		intRange("rx-retry-num", c.RxRetryNum),
		intRange("rx-retry-delay", c.RxRetryDelay),
		intRange("vlan-base", c.VLANBase),
		intRange("mtu", c.MTU),
		intRange("max-queue-pairs", c.MaxQueuePairs),
		intRange("max-ports", c.MaxPorts),
		intRange("mac-limit", c.MACLimit),
		intRange("address-age", c.AddressAge),
		intRange("uplink-queues", c.UplinkQueues),
		oneOf("--poll", c.Poll, "adaptive", "busy"),
		oneOf("--log-format", c.LogFormat, "text", "json"),
		oneOf("--log-level", c.LogLevel, "debug", "info", "warn", "error"),
		c.checkUplink(), c.checkMode(), c.checkCores(), c.checkSockets(), socketPath("--control", c.ControlSocket, maxListenPath),
		c.checkBroker(), c.checkCUSE(),
	} {
		if err != nil {
			all = multierror.Append(all, err)
		}
	}
	return all.ErrorOrNil()
}

func (c *Config) checkUplink() error {
	kind, name, named := strings.Cut(c.Uplink, ":")
	if kind == "none" && !named || kind == "tap" && (!named || name != "" && len(name) < 16 && !strings.ContainsAny(name, "/ ")) {
		return nil
	}
	if kind == UplinkIXGBE && (!named || name != "" && !strings.ContainsAny(name, " \x00")) {
		return nil
	}
	return &RangeError{"--uplink", strconv.Quote(c.Uplink), "none, tap, tap:NAME with a name of at most 15 characters, ixgbe, or ixgbe:ADDRESS"}
}

func (c *Config) checkSockets() error {
	longest := maxListenPath
	if c.Client {
		longest = maxSocketPath
	}
	seen := map[string]bool{}
	for _, path := range c.SocketFiles {
		if err := socketPath("--socket-file", path, longest); err != nil {
			return err
		}
		if clean := filepath.Clean(path); !seen[clean] {
			seen[clean] = true
			continue
		}
		return &RangeError{"--socket-file", strconv.Quote(path), "each path once"}
	}
	return nil
}

func (c *Config) checkBroker() error {
	if err := socketPath("--qemu-socket", QEMUSocket(*c), maxListenPath); err != nil {
		return err
	}
	for _, path := range c.Devices {
		if !strings.HasPrefix(filepath.Clean(path), "/dev/") {
			return &RangeError{"--device", strconv.Quote(path), "a path below /dev"}
		}
	}
	return nil
}

func (c *Config) checkMode() error {
	if _, err := c.ParsedSocketMode(); err != nil {
		return &RangeError{"--socket-mode", strconv.Quote(c.SocketMode), "an octal mode such as 0660"}
	}
	return nil
}

// ParsedSocketMode is --socket-mode as a number.
func (c *Config) ParsedSocketMode() (os.FileMode, error) {
	mode, err := strconv.ParseUint(c.SocketMode, 8, 9)
	return os.FileMode(mode), err
}
