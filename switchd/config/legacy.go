package config

import (
	"errors"
	"fmt"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrUsage is wrapped by errors about the command line.
var ErrUsage = errors.New("wrong command line")

// IsLegacy tells whether arguments are those of DPDK's vhost sample: an EAL part and an application part around "--".
func IsLegacy(args []string) bool {
	for _, a := range args {
		if a == "--" {
			return true
		}
		if o, ok := ealOptions[optionName(a)]; ok && o.telling || attachedShort.MatchString(a) {
			return true
		}
	}
	return false
}

// attachedShort is -c, -l or -n with its value in the same argument. Long options written with one dash do not look like this.
var attachedShort = regexp.MustCompile(`^-(c(0[xX])?[0-9a-fA-F]+|[ln][0-9][0-9,-]*)$`)

func optionName(arg string) string {
	name, _, _ := strings.Cut(arg, "=")
	return name
}

// option is an option of the old command lines.
type option struct {
	flag    bool // takes no value
	telling bool // no other command line has it
	apply   func(c *legacy, value string) error
}

// legacy is the state of parsing.
type legacy struct {
	config    Config
	cores     []int
	basenames []string
}

// ealOptions come before "--". Those without apply mean nothing here.
var ealOptions = map[string]option{
	"-c": {telling: true, apply: (*legacy).coreMask}, "--coremask": {telling: true, apply: (*legacy).coreMask},
	"-l": {telling: true, apply: (*legacy).coreList}, "--corelist": {telling: true, apply: (*legacy).coreList},
	"-n": {telling: true, apply: (*legacy).channels}, "--socket-mem": {telling: true, apply: (*legacy).socketMem},
	"--huge-dir":   {telling: true, apply: (*legacy).hugeDir},
	"--main-lcore": {telling: true, apply: (*legacy).mainCore}, "--master-lcore": {telling: true, apply: (*legacy).mainCore},
	"-m": {}, "-r": {}, "--file-prefix": {}, "--proc-type": {}, "-w": {}, "-b": {}, "-a": {}, "--allow": {}, "--block": {}, "--lcores": {},
	"--vdev": {}, "-d": {}, "--iova-mode": {}, "--base-virtaddr": {}, "--socket-limit": {}, "--syslog": {}, "--log-level": {},
	"--no-pci": {flag: true}, "--no-huge": {flag: true}, "--no-hpet": {flag: true}, "--no-shconf": {flag: true}, "--in-memory": {flag: true},
	"--no-telemetry": {flag: true}, "--huge-unlink": {flag: true}, "--legacy-mem": {flag: true}, "--single-file-segments": {flag: true},
	"--match-allocations": {flag: true}, "-v": {flag: true}, "-s": {}, "-S": {}, "--pci-whitelist": {}, "--pci-blacklist": {},
	"--vfio-intr": {}, "--mbuf-pool-ops-name": {}, "--create-uio-dev": {flag: true}, "--vmware-tsc-map": {flag: true},
	"--xen-dom0": {flag: true},
}

// appOptions come after "--": those of the table that the sample has, too, and these.
func appOptions() map[string]option {
	options := map[string]option{
		"-p": {apply: (*legacy).portMask},
		"--dev-basename": {apply: func(l *legacy, v string) error {
			l.basenames = append(l.basenames, v)
			return socketPath("--dev-basename", v, maxListenPath)
		}},
		"--socket-file": {apply: func(l *legacy, v string) error {
			l.config.SocketFiles = append(l.config.SocketFiles, v)
			return socketPath("--socket-file", v, maxSocketPath) // shorter where it is made here: Validate
		}},
		"--rx-desc-num": {}, "--tx-desc-num": {}, // of the sample's own zero copy, before it was removed
		"--dmas": {}, "--dma-type": {}, "--total-num-mbufs": {}, "--builtin-net-driver": {flag: true},
	}
	for _, o := range Options() {
		if _, own := options[o.Sample]; o.Sample != "" && !own {
			options[o.Sample] = option{flag: o.Kind == Switch, apply: o.applySample}
		}
	}
	return options
}

// applySample takes over the value that stands behind the sample's option; a Switch has none.
func (o Option) applySample(l *legacy, value string) error {
	if o.Kind == Switch {
		value = "1"
	}
	if o.Set(&l.config, value) != nil || o.check(&l.config) != nil {
		return &RangeError{o.Sample, strconv.Quote(value), o.want()}
	}
	return nil
}

// legacyQueuePairs is --max-queue-pairs of the old command lines, which have no such option.
const legacyQueuePairs = 8

// LegacyDefaults is what holds for the old command lines where the configuration file does not say otherwise.
func LegacyDefaults() Config {
	c := DefaultConfig()
	c.MaxQueuePairs = legacyQueuePairs
	return c
}

// defaultBasename is the socket of DPDK's vhost sample where nothing else is said, in the current directory.
const defaultBasename = "vhost-net"

// ParseLegacy reads a command line of DPDK's vhost sample (without the program's name) over the given defaults. Options that have no
// meaning here are accepted and leave a notice.
func ParseLegacy(args []string, defaults Config) (Config, error) {
	l := &legacy{config: defaults}
	l.config.SocketFiles, l.config.CUSEDevices = nil, nil // the old command line says which socket, not the file
	l.config.Notices = slices.Clone(defaults.Notices)
	l.config.MainCore = -1
	eal, app := args, []string(nil)
	for i, a := range args {
		if a == "--" {
			eal, app = args[:i], args[i+1:]
			break
		}
	}
	if err := l.parse(eal, ealOptions, "before --"); err != nil {
		return Config{}, err
	}
	if err := l.parse(app, appOptions(), "after --"); err != nil {
		return Config{}, err
	}
	switch {
	case len(l.basenames) > 0 && !l.config.UsesCUSE():
		l.config.AddBasenames(l.basenames[len(l.basenames)-1]) // the sample's last one holds
	case len(l.basenames) > 0:
		l.config.AddBasenames(l.basenames...)
	case len(l.config.SocketFiles) == 0 || l.config.UsesCUSE():
		l.config.AddBasenames(defaultBasename)
	}
	if err := l.assignCores(); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return l.config, nil
}

func (l *legacy) parse(args []string, options map[string]option, where string) error {
	for i := 0; i < len(args); i++ {
		name, value, attached := strings.Cut(args[i], "=")
		o, known := options[name]
		if !known && len(args[i]) > 2 && args[i][0] == '-' && args[i][1] != '-' { // -cf, -n4
			if short, ok := options[args[i][:2]]; ok && !short.flag {
				name, value, attached, o, known = args[i][:2], args[i][2:], true, short, true
			}
		}
		if !known {
			return fmt.Errorf("%w: %q is not an option %s", ErrUsage, args[i], where)
		}
		if o.flag && attached {
			return fmt.Errorf("%w: %s takes no value", ErrUsage, name)
		}
		if !o.flag && !attached {
			if i++; i == len(args) {
				return fmt.Errorf("%w: %s needs a value", ErrUsage, name)
			}
			value = args[i]
		}
		if o.apply == nil {
			l.notice(fmt.Sprintf("option %s has no meaning here and is ignored", name))
			continue
		}
		if err := o.apply(l, value); err != nil {
			return fmt.Errorf("%w: %w", ErrUsage, err)
		}
	}
	return nil
}

// notice notes a log line, once.
func (l *legacy) notice(line string) {
	if !slices.Contains(l.config.Notices, line) {
		l.config.Notices = append(l.config.Notices, line)
	}
}

// hexDigits takes the prefix 0x away, if there is one.
func hexDigits(v string) string {
	if len(v) > 1 && v[0] == '0' && (v[1] == 'x' || v[1] == 'X') {
		return v[2:]
	}
	return v
}

// coreMask reads -c: hexadecimal, with or without 0x, for up to 1024 cores.
func (l *legacy) coreMask(v string) error {
	digits := hexDigits(v)
	l.cores = nil
	for i := range len(digits) {
		n, err := strconv.ParseUint(digits[len(digits)-1-i:len(digits)-i], 16, 4)
		if err != nil || len(digits) > 256 {
			l.cores = nil
			break
		}
		for ; n != 0; n &= n - 1 {
			l.cores = append(l.cores, 4*i+bits.TrailingZeros64(n))
		}
	}
	if len(l.cores) == 0 {
		return &RangeError{"-c", strconv.Quote(v), "a hexadecimal mask of 1 to 256 digits with at least one bit set, such as f"}
	}
	return nil
}

func (l *legacy) coreList(v string) error {
	cores, err := ParseCores(v)
	if err != nil {
		return &RangeError{"-l", strconv.Quote(v), "a list such as 0-3,5"}
	}
	l.cores = cores
	return nil
}

func (l *legacy) mainCore(v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > 1023 {
		return &RangeError{"--main-lcore", strconv.Quote(v), "0..1023"}
	}
	l.config.MainCore = n
	return nil
}

func (l *legacy) channels(v string) error {
	if n, err := strconv.Atoi(v); err != nil || n < 1 || n > 32 {
		return &RangeError{"-n", strconv.Quote(v), "1..32"}
	}
	l.notice("option -n (memory channels) has no meaning here and is ignored")
	return nil
}

// socketMem reads --socket-mem: megabytes per NUMA node. The switch needs no memory of its own for frames.
func (l *legacy) socketMem(v string) error {
	for _, part := range strings.Split(v, ",") {
		if n, err := strconv.Atoi(part); err != nil || n < 0 {
			return &RangeError{"--socket-mem", strconv.Quote(v), "megabytes per node, such as 1024 or 1024,0"}
		}
	}
	l.notice("option --socket-mem has no meaning here and is ignored: frames go from guest to guest without buffers of the switch's own")
	return nil
}

func (l *legacy) hugeDir(v string) error {
	if v == "" {
		return &RangeError{"--huge-dir", `""`, "a directory"}
	}
	l.notice("option --huge-dir has no meaning here and is ignored: the guests' memory comes with their connection")
	return nil
}

func (l *legacy) portMask(v string) (err error) {
	l.config.PortMask, err = ParsePortMask(v)
	return err
}

// ParsePortMask reads -p: hexadecimal, the whole string, exactly one port.
func ParsePortMask(v string) (uint64, error) {
	mask, err := strconv.ParseUint(hexDigits(v), 16, 32)
	if err != nil || bits.OnesCount64(mask) != 1 {
		return 0, &RangeError{"-p", strconv.Quote(v), "a hexadecimal mask with exactly one bit set, such as 0x1"}
	}
	return mask, nil
}

// assignCores: the main core is the lowest one (or --main-lcore), all others run workers; a single core does both.
func (l *legacy) assignCores() error {
	main := l.config.MainCore
	if len(l.cores) == 0 {
		if main >= 0 {
			l.config.Cores = []int{main}
		}
		return nil
	}
	if main >= 0 && !slices.Contains(l.cores, main) {
		return &RangeError{"--main-lcore", strconv.Itoa(main), fmt.Sprintf("one of the cores %v", l.cores)}
	}
	if main < 0 {
		l.config.MainCore = l.cores[0]
	}
	var workers []int
	for _, core := range l.cores {
		if core != l.config.MainCore {
			workers = append(workers, core)
		}
	}
	if len(workers) == 0 {
		workers = []int{l.config.MainCore}
	}
	l.config.Cores = workers
	return nil
}
