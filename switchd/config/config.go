// Package config has the settings of switchd: their defaults, the configuration file, the command lines of DPDK's vhost sample, and the checks.
// It knows nothing of the switch.
package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// MaxPorts is the highest --max-ports: forward.MaxPorts, which this package does not import.
const MaxPorts = 3095

// UplinkIXGBE is the kind of uplink in "ixgbe" and "ixgbe:ADDRESS".
const UplinkIXGBE = "ixgbe"

// DefaultConfigFile is read when it exists and no other is named.
const DefaultConfigFile = "/etc/vhostkit/switchd.toml"

// Config is everything that can be set; Options says under which names.
type Config struct {
	Cores    CoreList // one worker each; -1 is a worker that is not pinned
	MainCore int      // of the old command lines; -1: none

	SocketFiles []string // shared sockets: each connection is a device
	Client      bool     // connect to the sockets instead of making them
	SocketGroup string
	SocketMode  string // octal
	SocketDir   string // of named ports' sockets
	StateDir    string // where named ports are remembered

	Backend     string   // "vhost-user", "cuse" or "both"
	CUSEDevices []string // names of character devices below /dev, of --backend cuse and both
	CUSEGroup   string
	CUSEMode    string // octal

	// UnsafeMemoryFiles lets guests' memory lie in files of other file systems than tmpfs and hugetlbfs, which may stop the switch.
	UnsafeMemoryFiles bool

	ControlSocket string
	QEMUSocket    string   // where QEMU processes ask for ports and devices; "none": nowhere
	QEMUGroup     string   // who may
	Devices       []string // character devices that they may ask for

	Uplink       string // "none", "tap", "tap:NAME", "ixgbe", "ixgbe:ADDRESS"
	UplinkQueues int    // 0: one per worker
	PortMask     uint64 // -p: which 82599
	VMDq         string // how an 82599's queues are divided
	AntiSpoof    bool   // let an 82599 check source addresses and VLANs
	// UnprotectedDMA allows an 82599 without an IOMMU, which can then reach all memory of the machine.
	UnprotectedDMA bool
	ZeroCopy       bool // let an 82599 read frames from guests' memory
	Promiscuous    bool

	VM2VM        int
	Mergeable    bool
	Stats        int // seconds between statistics on the screen; 0: none
	RxRetry      bool
	RxRetryNum   int
	RxRetryDelay int // microseconds
	VLANStrip    bool
	VLANBase     int
	TxCsum       bool
	TSO          bool

	Poll          string // "adaptive" or "busy"
	MTU           int    // bytes
	MaxQueuePairs int    // per device
	MaxPorts      int    // 0: as many as fit
	MACLimit      int    // addresses per port
	AddressAge    int    // seconds; 0: never
	// MaxGuestMemory bounds what a guest's front-end may have mapped; 0: twice the host's RAM and swap.
	MaxGuestMemory ByteSize

	LogFormat  string // "text" or "json"
	LogLevel   string
	CPUProfile string
	CheckOnly  bool   // --check-config
	File       string // that was read; empty: none

	Notices  []string // one log line each, written at the start
	Warnings []string // the same, as warnings
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
	return defaults(run, state)
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

func (e *RangeError) Error() string {
	return fmt.Sprintf("%s must be %s, not %s", e.Option, e.Want, e.Value)
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

// Validate checks all values and reports every one that is wrong, together with what others have found.
func (c *Config) Validate(others ...error) error {
	all := &multierror.Error{ErrorFormat: formatErrors}
	for _, o := range Options() {
		if err := o.check(c); err != nil {
			all = multierror.Append(all, err)
		}
	}
	for _, err := range append(others,
		c.checkUplink(), c.checkCores(), c.checkSockets(), socketPath("--control", c.ControlSocket, maxListenPath), c.checkBroker(), c.checkCUSE(),
	) {
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
		return &RangeError{"--socket-file", strconv.Quote(path), "a different path each time"}
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

// ParsedSocketMode is --socket-mode as a number.
func (c *Config) ParsedSocketMode() (os.FileMode, error) {
	mode, err := strconv.ParseUint(c.SocketMode, 8, 9)
	return os.FileMode(mode), err
}
