package switchd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"vhostkit/switchd/control"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/unixsocket"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/vhost"
)

// Daemon is the running switch: sockets, ports, uplink and control, wired together.
type Daemon struct {
	config  Config
	log     *slog.Logger
	started time.Time
	sw      *forward.Switch
	uplink  uplink.Uplink // nil: none
	options vhost.Options
	journal *vhost.Journal // nil: none

	mu        sync.Mutex
	sockets   map[string]*socket   // by path
	named     map[string]namedPort // the ports that have a socket of their own
	persistMu sync.Mutex           // one change of the named ports at a time
	plugged   map[int]*plug        // connected devices by port
	history   history              // devices that are gone
	serveCtx  context.Context      // sockets live as long as this; set by Run
	failed    chan error           // the first part that stopped by itself
}

// New checks the configuration and opens the uplink. Nothing is served before Run.
func New(config Config, log *slog.Logger) (*Daemon, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	d := &Daemon{
		config: config, log: log, started: time.Now(),
		sockets: map[string]*socket{}, named: map[string]namedPort{}, plugged: map[int]*plug{}, history: newHistory(), failed: make(chan error, 1),
		options: vhost.Options{
			Mergeable: config.Mergeable, TxCsum: config.TxCsum, TSO: config.TSO, Promiscuous: config.Promiscuous,
			MaxQueuePairs: config.MaxQueuePairs, MTU: config.MTU,
		},
	}
	err := d.config.chooseNIC(pci.ThisHost(), log)
	if err != nil {
		return nil, err
	}
	if d.uplink, err = openUplink(d.config, log); err != nil {
		return nil, err
	}
	if config.VM2VM == int(forward.VM2VMHardware) && (d.uplink == nil || d.uplink.Pools() == 0) {
		d.closeUplink()
		return nil, fmt.Errorf("--vm2vm 2 lets the NIC's own switch loop frames back, and uplink %q has none: use --vm2vm 1, or an 82599",
			config.Uplink)
	}
	if _, ok := d.uplink.(uplink.Lender); config.ZeroCopy && !ok {
		d.closeUplink()
		return nil, fmt.Errorf("--zero-copy 1 lets a card read frames from guests' memory, and uplink %q is none: leave it out, or use an 82599",
			d.config.Uplink)
	}
	d.sw = forward.New(d.forwardConfig())
	return d, nil
}

func (d *Daemon) forwardConfig() forward.Config {
	c := d.config
	return forward.Config{
		VM2VM: forward.VM2VM(c.VM2VM), Cores: c.Cores, Busy: c.Poll == "busy", MaxFrame: c.maxFrame(),
		RxRetry: c.RxRetry, RxRetryNum: c.RxRetryNum, RxRetryDelay: time.Duration(c.RxRetryDelay) * time.Microsecond,
		VLANBase: c.VLANBase, VLANStrip: c.VLANStrip, Promiscuous: c.Promiscuous, MACLimit: c.MACLimit,
		AddressAge: time.Duration(c.AddressAge) * time.Second, Uplink: d.uplink, ZeroCopy: c.ZeroCopy, OnEvent: d.report,
	}
}

// maxFrame is the longest frame in bytes, without FCS, with two tags.
func (c *Config) maxFrame() int {
	frame := forward.StandardFrame
	if c.Mergeable {
		frame = forward.JumboFrame
	}
	return max(frame, c.MTU+ether.HeaderLen+2*ether.TagLen)
}

// Run serves until ctx ends or a part fails, then stops everything: first the sockets, so that the guests can connect again to whoever comes
// next, then the workers, then the uplink.
func (d *Daemon) Run(ctx context.Context) error {
	tuneRuntime(len(d.config.Cores))
	leaveCores(d.config.Cores)
	switchCtx, stopSwitch := context.WithCancel(context.Background())
	defer stopSwitch()
	switchDone := make(chan error, 1)
	go func() { switchDone <- d.sw.Run(switchCtx) }()

	serveCtx, stopServing := context.WithCancel(ctx)
	defer stopServing()
	d.serveCtx = serveCtx
	d.openJournal()
	err := d.serve(serveCtx)
	if err == nil {
		d.tell("READY=1")
		go d.keepAlive(serveCtx)
		select {
		case <-ctx.Done():
		case err = <-d.failed:
		case err = <-switchDone:
			switchDone <- err
		}
	}
	d.log.Info("stopping")
	d.tell("STOPPING=1")
	stopServing()
	d.closeSockets()
	stopSwitch()
	result := multierror.Append(nil, err, <-switchDone)
	d.closeUplink()
	if d.journal != nil {
		d.journal.Close()
	}
	return result.ErrorOrNil()
}

// openJournal: without it everything works but the restart under packed rings.
func (d *Daemon) openJournal() {
	err := os.MkdirAll(d.config.StateDir, 0o755)
	if err == nil {
		d.journal, err = vhost.OpenJournal(filepath.Join(d.config.StateDir, "rings.journal"))
	}
	if err != nil {
		d.log.Warn("guests with packed rings will not survive a restart of the switch (option --state-dir)", "error", err)
	}
}

// serve opens the sockets, the persisted ports and the control socket.
func (d *Daemon) serve(ctx context.Context) error {
	for _, path := range d.config.SocketFiles {
		if err := d.openSocket(path, namedPort{}); err != nil {
			return err
		}
	}
	if err := d.openDevices(); err != nil {
		return err
	}
	if err := d.restorePorts(); err != nil {
		return err
	}
	listener, err := d.controlSocket()
	if err != nil {
		return err
	}
	d.answer(ctx, control.NewServer(listener, d, d.log))
	if err := d.serveBroker(ctx); err != nil {
		return err
	}
	if d.config.Stats > 0 {
		go d.showStats(ctx)
	}
	d.log.Info("ready", "sockets", d.config.SocketFiles, "devices", d.config.CUSEPaths(), "control", d.config.ControlSocket, "uplink", d.config.Uplink,
		"vm2vm", d.config.VM2VM, "cores", d.config.Cores, "poll", d.config.Poll)
	return nil
}

// controlSocket is the service manager's, if it has one for us, or one of our own.
func (d *Daemon) controlSocket() (net.Listener, error) {
	if l, err := inherited("control"); l != nil || err != nil {
		return l, err
	}
	if err := os.MkdirAll(filepath.Dir(d.config.ControlSocket), 0o755); err != nil {
		return nil, fmt.Errorf("directory of the control socket: %w", err)
	}
	return unixsocket.Listen(d.config.ControlSocket, unixsocket.Access{Group: d.config.SocketGroup})
}

// answer serves requests until ctx ends.
func (d *Daemon) answer(ctx context.Context, s *control.Server) {
	go func() {
		if err := s.Serve(ctx); err != nil {
			d.fail(err)
		}
	}()
}

func (d *Daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

func (d *Daemon) closeUplink() {
	if d.uplink != nil {
		if err := d.uplink.Close(); err != nil {
			d.log.Warn("closing the uplink", "error", err)
		}
	}
}

// tuneRuntime gives the workers processors of their own beside those of the control side, and keeps the collector quiet: the data plane
// allocates nothing, so the little garbage of the control side need not be collected often.
func tuneRuntime(workers int) {
	runtime.GOMAXPROCS(max(runtime.NumCPU(), workers+2))
	debug.SetGCPercent(100)
}
