package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"vhostkit/internal/version"
	"vhostkit/switchd/budget"
	"vhostkit/switchd/config"
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
func parseOptions(args []string) (into config.Config, done bool, err error) {
	defaults := config.DefaultConfig()
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
			into, err = fromFlags(c, defaults)
			return err
		},
		Writer: os.Stdout, ErrWriter: os.Stderr,
	}
	if err := app.Run(append([]string{"switchd"}, args...)); err != nil {
		return into, false, err
	}
	return into, done, nil
}

// usageError writes options the way users do, with two dashes.
func usageError(err error) error {
	text := strings.NewReplacer("flag provided but not defined: -", "unknown option --", "for flag -", "for --",
		"flag needs an argument: -", "no value for --").Replace(err.Error())
	return fmt.Errorf("%w: %s", config.ErrUsage, text)
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
	low, high, _ := config.Range(name)
	return &cli.GenericFlag{Name: name, Usage: usage, Value: &bounded{value, low, high}}
}

func flags(d config.Config) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "read this `FILE` (default: " + config.DefaultConfigFile + " if it exists)"},
		&cli.BoolFlag{Name: "man", Usage: "print the manual page", Hidden: true},
		&cli.BoolFlag{Name: "check-config", Usage: "check the configuration and exit"},
		&cli.StringSliceFlag{Name: "socket-file", Usage: "vhost-user socket `PATH`; repeatable (default: " + config.DefaultSocket(d) + ")"},
		&cli.StringFlag{Name: "backend", Usage: "vhost-user: sockets; cuse: character devices for QEMU's vhost=on; both", Value: d.Backend},
		&cli.StringSliceFlag{Name: "dev-basename", Usage: "`NAME` of the device /dev/NAME (--backend cuse, both), of the socket (vhost-user, both); repeatable (default of cuse: " + config.DefaultDevice + ")"},
		&cli.StringFlag{Name: "cuse-group", Usage: "`GROUP` of the devices", Value: d.CUSEGroup},
		&cli.StringFlag{Name: "cuse-mode", Usage: "octal `MODE` of the devices", Value: d.CUSEMode},
		&cli.BoolFlag{Name: "client", Usage: "connect to the sockets, where QEMU listens, and reconnect"},
		&cli.StringFlag{Name: "socket-group", Usage: "`GROUP` of the sockets"},
		&cli.StringFlag{Name: "socket-mode", Usage: "octal `MODE` of the sockets", Value: d.SocketMode},
		number("unsafe-memory-files", "1: take guests' memory in files of any file system; a slow disk or server then stops the switch for all", 0),
		&cli.StringFlag{Name: "socket-dir", Usage: "`DIR` of named ports' sockets", Value: d.SocketDir},
		&cli.StringFlag{Name: "state-dir", Usage: "`DIR` where named ports are remembered", Value: d.StateDir},
		&cli.StringFlag{Name: "control", Usage: "control socket `PATH` for vhostctl", Value: d.ControlSocket},
		&cli.StringFlag{Name: "qemu-socket", Usage: "socket `PATH` where qemu-wrap asks for ports and devices, or none (default: " + config.QEMUSocket(d) + ")"},
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
			"so that none uses up the switch's addresses; 0: twice the host's RAM and swap", Value: new(config.ByteSize)},
		number("mac-limit", "addresses per port", d.MACLimit),
		number("address-age", "forget an address after so many `SECONDS` of silence, unless it is a port's newest; 0: never",
			d.AddressAge),
		&cli.StringFlag{Name: "log-format", Usage: "text or json", Value: d.LogFormat},
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error", Value: d.LogLevel},
		&cli.StringFlag{Name: "cpuprofile", Usage: "write a CPU profile to this `FILE`"},
	}
}

func fromFlags(c *cli.Context, into config.Config) (config.Config, error) {
	if c.Args().Present() {
		return into, fmt.Errorf("%w: unexpected argument %q", config.ErrUsage, c.Args().First())
	}
	var err error
	if file := c.String("config"); file != "" {
		err = into.LoadFile(file)
	} else {
		err = loadDefaultFile(&into)
	}
	if err != nil {
		return into, err
	}
	if err := override(c, &into); err != nil {
		return into, err
	}
	if c.IsSet("dev-basename") {
		into.CUSEDevices = nil
		into.AddBasenames(c.StringSlice("dev-basename")...)
	}
	if into.UsesCUSE() && len(into.CUSEDevices) == 0 {
		into.CUSEDevices = []string{config.DefaultDevice}
	}
	if len(into.SocketFiles) == 0 && into.UsesSockets() {
		into.SocketFiles = []string{config.DefaultSocket(into)}
	}
	into.CheckOnly = c.Bool("check-config")
	return into, nil
}

// override applies the options that were given.
func override(c *cli.Context, into *config.Config) error {
	for name, to := range map[string]*string{
		"socket-group": &into.SocketGroup, "socket-mode": &into.SocketMode, "socket-dir": &into.SocketDir,
		"state-dir": &into.StateDir, "control": &into.ControlSocket, "uplink": &into.Uplink, "poll": &into.Poll,
		"backend": &into.Backend, "cuse-group": &into.CUSEGroup, "cuse-mode": &into.CUSEMode, "vmdq": &into.VMDq,
		"qemu-socket": &into.QEMUSocket, "qemu-group": &into.QEMUGroup, "log-format": &into.LogFormat, "log-level": &into.LogLevel, "cpuprofile": &into.CPUProfile,
	} {
		if c.IsSet(name) {
			*to = c.String(name)
		}
	}
	for name, to := range map[string]*int{
		"uplink-queues": &into.UplinkQueues, "vm2vm": &into.VM2VM, "mtu": &into.MTU, "rx-retry-num": &into.RxRetryNum,
		"rx-retry-delay": &into.RxRetryDelay, "vlan-base": &into.VLANBase, "stats": &into.Stats,
		"max-queue-pairs": &into.MaxQueuePairs, "max-ports": &into.MaxPorts, "mac-limit": &into.MACLimit, "address-age": &into.AddressAge,
	} {
		if c.IsSet(name) {
			*to = c.Int(name)
		}
	}
	for name, to := range map[string]*bool{
		"mergeable": &into.Mergeable, "rx-retry": &into.RxRetry, "vlan-strip": &into.VLANStrip, "tx-csum": &into.TxCsum,
		"tso": &into.TSO, "anti-spoof": &into.AntiSpoof, "unprotected-dma": &into.UnprotectedDMA,
		"zero-copy": &into.ZeroCopy, "unsafe-memory-files": &into.UnsafeMemoryFiles,
	} {
		if c.IsSet(name) {
			*to = c.Int(name) == 1
		}
	}
	if c.IsSet("device") {
		into.Devices = c.StringSlice("device")
	}
	if c.IsSet("client") {
		into.Client = c.Bool("client")
	}
	if c.IsSet("promiscuous") {
		into.Promiscuous = c.Bool("promiscuous")
	}
	if c.IsSet("socket-file") {
		into.SocketFiles = c.StringSlice("socket-file")
	}
	return overrideParsed(c, into)
}

func overrideParsed(c *cli.Context, into *config.Config) (err error) {
	if c.IsSet("max-guest-memory") {
		if err := into.MaxGuestMemory.Set(c.String("max-guest-memory")); err != nil {
			return fmt.Errorf("%w: --max-guest-memory %w", config.ErrUsage, err)
		}
	}
	if c.IsSet("cores") {
		if into.Cores, err = config.ParseCores(c.String("cores")); err != nil {
			return fmt.Errorf("%w: --%w", config.ErrUsage, err)
		}
	}
	if c.IsSet("portmask") {
		if into.PortMask, err = config.ParsePortMask(c.String("portmask")); err != nil {
			return fmt.Errorf("%w: %w", config.ErrUsage, err)
		}
	}
	return nil
}
