package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"vhostkit/internal/version"
	"vhostkit/switchd"
	"vhostkit/switchd/budget"
	"vhostkit/templates/man"
)

const description = `Guests connect to a Unix socket over vhost-user, or to a character device (--backend cuse); each
connection becomes a port. The command lines of DPDK's vhost sample application work unchanged, too.

EXAMPLES
   Two or more guests, no way out:
      switchd --socket-file /run/vhostkit/vhost.sock
   With an interface of the kernel as the way out, port N being VLAN 1000+N there:
      switchd --socket-file /run/vhostkit/vhost.sock --uplink tap:vhk0
   Workers on cores 2 and 3 that never sleep:
      switchd --cores 2-3 --poll busy
   A character device for QEMUs with vhost=on, beside the socket:
      switchd --backend both --dev-basename usvhost
   As ever:
      switchd -c f -n 4 --socket-mem 1024 --huge-dir /mnt/huge -- -p 0x1 --dev-basename usvhost

EXIT CODES
   0 stopped by a signal   1 failed   2 wrong command line or configuration`

// parseOptions reads the new command line: defaults, then the configuration file, then the options.
func parseOptions(args []string) (config switchd.Config, done bool, err error) {
	defaults := switchd.DefaultConfig()
	done = true // unless the action runs, --help or --version was all
	app := &cli.App{
		Name: "switchd", Usage: "a switch for virtual machines, over vhost-user", Description: description, Version: version.BuildInfo(),
		HideHelpCommand: true, Flags: flags(defaults), ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return usageError(err) },
		Action: func(c *cli.Context) error {
			if c.Bool("man") {
				page, err := man.Page(c.App)
				fmt.Print(page)
				return err
			}
			done = false
			config, err = fromFlags(c, defaults)
			return err
		},
		Writer: os.Stdout, ErrWriter: os.Stderr,
	}
	if err := app.Run(append([]string{"switchd"}, args...)); err != nil {
		return config, false, err
	}
	return config, done, nil
}

// usageError writes options the way users do, with two dashes.
func usageError(err error) error {
	text := strings.NewReplacer("flag provided but not defined: -", "unknown option --", "for flag -", "for --",
		"flag needs an argument: -", "no value for --").Replace(err.Error())
	return fmt.Errorf("%w: %s", switchd.ErrUsage, text)
}

// bounded is the value of an option that takes a number.
type bounded struct{ value, low, high int }

// Set reads the option's value.
func (b *bounded) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < b.low || n > b.high {
		return fmt.Errorf("want %d..%d", b.low, b.high)
	}
	b.value = n
	return nil
}

func (b *bounded) String() string { return strconv.Itoa(b.value) }

// number makes an option whose bounds are those of the configuration.
func number(name, usage string, value int) cli.Flag {
	low, high, _ := switchd.Range(name)
	return &cli.GenericFlag{Name: name, Usage: usage, Value: &bounded{value, low, high}}
}

func flags(d switchd.Config) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "read this `FILE` (default: " + switchd.DefaultConfigFile + " if it exists)"},
		&cli.BoolFlag{Name: "man", Usage: "print the manual page", Hidden: true},
		&cli.BoolFlag{Name: "check-config", Usage: "check the configuration and exit"},
		&cli.StringSliceFlag{Name: "socket-file", Usage: "vhost-user socket `PATH`; repeatable (default: " + switchd.DefaultSocket(d) + ")"},
		&cli.StringFlag{Name: "backend", Usage: "vhost-user: sockets; cuse: character devices for QEMU's vhost=on; both", Value: d.Backend},
		&cli.StringSliceFlag{Name: "dev-basename", Usage: "`NAME` of the device /dev/NAME (--backend cuse, both), of the socket (vhost-user, both); repeatable (default of cuse: " + switchd.DefaultDevice + ")"},
		&cli.StringFlag{Name: "cuse-group", Usage: "`GROUP` of the devices", Value: d.CUSEGroup},
		&cli.StringFlag{Name: "cuse-mode", Usage: "octal `MODE` of the devices", Value: d.CUSEMode},
		&cli.BoolFlag{Name: "client", Usage: "connect to the sockets, where QEMU listens, and reconnect"},
		&cli.StringFlag{Name: "socket-group", Usage: "`GROUP` of the sockets"},
		&cli.StringFlag{Name: "socket-mode", Usage: "octal `MODE` of the sockets", Value: d.SocketMode},
		number("unsafe-memory-files", "1: take guests' memory in files of any file system; a slow disk or server then stops the switch for all", 0),
		&cli.StringFlag{Name: "socket-dir", Usage: "`DIR` of named ports' sockets", Value: d.SocketDir},
		&cli.StringFlag{Name: "state-dir", Usage: "`DIR` where named ports are remembered", Value: d.StateDir},
		&cli.StringFlag{Name: "control", Usage: "control socket `PATH` for vhostctl", Value: d.ControlSocket},
		&cli.StringFlag{Name: "qemu-socket", Usage: "socket `PATH` where qemu-wrap asks for ports and devices, or none (default: " + switchd.QEMUSocket(d) + ")"},
		&cli.StringFlag{Name: "qemu-group", Usage: "`GROUP` that may use it", Value: d.QEMUGroup},
		&cli.StringSliceFlag{Name: "device", Usage: "character device `PATH` that qemu-wrap may ask for; repeatable"},
		&cli.StringFlag{Name: "uplink", Usage: "the way out: none, tap, tap:`NAME`, ixgbe or ixgbe:ADDRESS (an 82599; see vhostctl nic)", Value: d.Uplink},
		number("uplink-queues", "queue pairs of the uplink; 0: one per worker", 0),
		&cli.StringFlag{Name: "vmdq", Usage: "an 82599's pools and queues: 64x2, 32x4 (RSS), dcb16x8 or dcb32x4 (by priority)", Value: d.VMDq},
		number("anti-spoof", "1: an 82599 checks the source addresses and VLANs of what guests send, too", 0),
		number("unprotected-dma", "1: drive an 82599 without an IOMMU; it can then reach all memory of this machine", 0),
		number("zero-copy", "1: an 82599 behind an IOMMU reads longer frames straight from guests' memory, which stays pinned", 0),
		&cli.StringFlag{Name: "cores", Usage: "one worker on each core of this `LIST`, such as 2-3,5 (default: one worker, not pinned)"},
		&cli.StringFlag{Name: "poll", Usage: "adaptive: sleep when there is nothing to do; busy: never", Value: d.Poll},
		number("vm2vm", "frames between guests: 0 by the uplink, 1 in the switch, 2 by the NIC's own switch", d.VM2VM),
		number("mergeable", "1: mergeable receive buffers and frames of up to 9728 bytes", 0),
		number("mtu", "of the uplink, in `BYTES`", d.MTU),
		number("rx-retry", "1: wait for a guest whose receive ring is full", 1),
		number("rx-retry-num", "how often", d.RxRetryNum),
		number("rx-retry-delay", "how long each time, in microseconds", d.RxRetryDelay),
		number("vlan-strip", "1: take the tag off frames from the uplink", 1),
		number("vlan-base", "port N is VLAN base+N on the uplink", d.VLANBase),
		number("tx-csum", "1: offer checksum offload", 0),
		number("tso", "1: offer TCP segmentation offload", 0),
		&cli.BoolFlag{Name: "promiscuous", Aliases: []string{"P"}, Usage: "unicast frames of a port's VLAN reach it whatever their address"},
		&cli.StringFlag{Name: "portmask", Aliases: []string{"p"}, Usage: "hexadecimal `MASK` of the 82599 to use"},
		number("stats", "print statistics every `N` seconds; 0: never", 0),
		number("max-queue-pairs", "per device", d.MaxQueuePairs),
		number("max-ports", "`N` devices at once, each with all its queue pairs; 0: as many as fit, up to "+strconv.Itoa(budget.DefaultPorts), 0),
		&cli.GenericFlag{Name: "max-guest-memory", Usage: "most memory of one guest, in `BYTES` or with K, M, G, T: a front-end that claims more is refused, " +
			"so that none uses up the switch's addresses; 0: twice the host's RAM and swap", Value: new(switchd.ByteSize)},
		number("mac-limit", "addresses per port", d.MACLimit),
		number("address-age", "forget an address after so many `SECONDS` of silence, unless it is a port's newest; 0: never",
			d.AddressAge),
		&cli.StringFlag{Name: "log-format", Usage: "text or json", Value: d.LogFormat},
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error", Value: d.LogLevel},
		&cli.StringFlag{Name: "cpuprofile", Usage: "write a CPU profile to this `FILE`"},
	}
}

func fromFlags(c *cli.Context, config switchd.Config) (switchd.Config, error) {
	if c.Args().Present() {
		return config, fmt.Errorf("%w: unexpected argument %q", switchd.ErrUsage, c.Args().First())
	}
	var err error
	if file := c.String("config"); file != "" {
		err = config.LoadFile(file)
	} else {
		err = loadDefaultFile(&config)
	}
	if err != nil {
		return config, err
	}
	if err := override(c, &config); err != nil {
		return config, err
	}
	if c.IsSet("dev-basename") {
		config.CUSEDevices = nil
		config.Name(c.StringSlice("dev-basename")...)
	}
	if config.UsesCUSE() && len(config.CUSEDevices) == 0 {
		config.CUSEDevices = []string{switchd.DefaultDevice}
	}
	if len(config.SocketFiles) == 0 && config.UsesSockets() {
		config.SocketFiles = []string{switchd.DefaultSocket(config)}
	}
	config.CheckOnly = c.Bool("check-config")
	return config, nil
}

// override applies the options that were given.
func override(c *cli.Context, config *switchd.Config) error {
	for name, to := range map[string]*string{
		"socket-group": &config.SocketGroup, "socket-mode": &config.SocketMode, "socket-dir": &config.SocketDir,
		"state-dir": &config.StateDir, "control": &config.ControlSocket, "uplink": &config.Uplink, "poll": &config.Poll,
		"backend": &config.Backend, "cuse-group": &config.CUSEGroup, "cuse-mode": &config.CUSEMode, "vmdq": &config.VMDq,
		"qemu-socket": &config.QEMUSocket, "qemu-group": &config.QEMUGroup, "log-format": &config.LogFormat, "log-level": &config.LogLevel, "cpuprofile": &config.CPUProfile,
	} {
		if c.IsSet(name) {
			*to = c.String(name)
		}
	}
	for name, to := range map[string]*int{
		"uplink-queues": &config.UplinkQueues, "vm2vm": &config.VM2VM, "mtu": &config.MTU, "rx-retry-num": &config.RxRetryNum,
		"rx-retry-delay": &config.RxRetryDelay, "vlan-base": &config.VLANBase, "stats": &config.Stats,
		"max-queue-pairs": &config.MaxQueuePairs, "max-ports": &config.MaxPorts, "mac-limit": &config.MACLimit, "address-age": &config.AddressAge,
	} {
		if c.IsSet(name) {
			*to = c.Int(name)
		}
	}
	for name, to := range map[string]*bool{
		"mergeable": &config.Mergeable, "rx-retry": &config.RxRetry, "vlan-strip": &config.VLANStrip, "tx-csum": &config.TxCsum,
		"tso": &config.TSO, "anti-spoof": &config.AntiSpoof, "unprotected-dma": &config.UnprotectedDMA,
		"zero-copy": &config.ZeroCopy, "unsafe-memory-files": &config.UnsafeMemoryFiles,
	} {
		if c.IsSet(name) {
			*to = c.Int(name) == 1
		}
	}
	if c.IsSet("device") {
		config.Devices = c.StringSlice("device")
	}
	if c.IsSet("client") {
		config.Client = c.Bool("client")
	}
	if c.IsSet("promiscuous") {
		config.Promiscuous = c.Bool("promiscuous")
	}
	if c.IsSet("socket-file") {
		config.SocketFiles = c.StringSlice("socket-file")
	}
	return overrideParsed(c, config)
}

func overrideParsed(c *cli.Context, config *switchd.Config) (err error) {
	if c.IsSet("max-guest-memory") {
		if err := config.MaxGuestMemory.Set(c.String("max-guest-memory")); err != nil {
			return fmt.Errorf("%w: --max-guest-memory %w", switchd.ErrUsage, err)
		}
	}
	if c.IsSet("cores") {
		if config.Cores, err = switchd.ParseCores(c.String("cores")); err != nil {
			return fmt.Errorf("%w: --%w", switchd.ErrUsage, err)
		}
	}
	if c.IsSet("portmask") {
		if config.PortMask, err = switchd.ParsePortMask(c.String("portmask")); err != nil {
			return fmt.Errorf("%w: %w", switchd.ErrUsage, err)
		}
	}
	return nil
}
