// Package daemon wires the switch: it opens the uplink and the sockets, gives each connection a port of package forward, keeps named ports, answers
// the control interface, and owns start and stop.
package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/config"
	"vhostkit/switchd/control"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/logging"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/unixsocket"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/vhost"
)

// Daemon is the running switch: sockets, ports, uplink and control, wired together.
type Daemon struct {
	config config.Config
	// What the administrator configured, as Reload has taken it over: config has the NIC that was chosen instead.
	configured config.Config
	statsEvery chan int                 // seconds; has the newest
	devices    atomic.Pointer[[]string] // that the broker may open
	out        *logging.Output          // the caller's
	log        *slog.Logger             // out's
	started    time.Time
	sw         *forward.Switch
	uplink     uplink.Uplink // nil: none
	options    vhost.Options
	journal    *vhost.Journal // nil: none
	budget     *budget.Budget

	mu        sync.Mutex
	sockets   map[string]*socket          // by path
	named     map[string]*namedState      // the ports that have a socket of their own
	leaving   map[*socket]bool            // of ports that were removed, while their devices have not ended
	plugged   map[forward.PortID]*adapter // connected devices by port
	byName    map[string]*adapter         // those of named ports; one that is just being connected has no port yet
	history   history                     // devices that are gone
	askLimit  askLimit
	changes   uint64     // of the named ports so far
	written   uint64     // how many of them the file has
	persistMu sync.Mutex // for the file: nobody else has to wait for a disk
	servers   []*control.Server
	closed    bool       // no socket is opened any more
	failed    chan error // the first part that stopped by itself
}

// New checks the configuration and opens the uplink. Nothing is served before Run. out stays the caller's, to be closed after Run.
func New(c config.Config, out *logging.Output) (*Daemon, error) {
	if err := Check(c); err != nil {
		return nil, err
	}
	log := out.Log()
	d := &Daemon{
		config: c, out: out, log: log, started: time.Now(),
		sockets: map[string]*socket{}, named: map[string]*namedState{}, plugged: map[forward.PortID]*adapter{},
		byName: map[string]*adapter{}, leaving: map[*socket]bool{}, history: newHistory(), failed: make(chan error, 1),
		options: vhost.Options{
			Mergeable: c.Mergeable, TxCsum: c.TxCsum, TSO: c.TSO, Promiscuous: c.Promiscuous,
			MaxQueuePairs: c.MaxQueuePairs, MTU: c.MTU, AnyFile: c.UnsafeMemoryFiles, Populator: guestmem.NewPopulator(),
		},
	}
	d.configured, d.statsEvery = c, make(chan int, 1)
	d.statsEvery <- c.Stats
	d.devices.Store(&c.Devices)
	var err error
	if d.budget, err = newBudget(c, log); err != nil {
		return nil, err
	}
	ports := d.budget.Limits()[budget.Ports]
	d.askLimit = askLimit{User: int(ports.User), Total: int(ports.Total - ports.Reserve)}
	if d.config.Uplink, err = chooseNIC(c, pci.ThisHost(), log); err != nil {
		return nil, err
	}
	if d.uplink, err = openUsableUplink(d.config, log); err != nil {
		return nil, err
	}
	d.sw = forward.New(d.forwardConfig())
	return d, nil
}

func (d *Daemon) forwardConfig() forward.Config {
	c := d.config
	return forward.Config{
		VM2VM: forward.VM2VM(c.VM2VM), Cores: c.Cores, Busy: c.Poll == "busy", MaxFrame: maxFrame(c),
		RxRetry: c.RxRetry, RxRetryNum: c.RxRetryNum, RxRetryDelay: time.Duration(c.RxRetryDelay) * time.Microsecond,
		VLANBase: c.VLANBase, VLANStrip: c.VLANStrip, Promiscuous: c.Promiscuous, MACLimit: c.MACLimit,
		AddressAge: time.Duration(c.AddressAge) * time.Second, Uplink: d.uplink, ZeroCopy: c.ZeroCopy, OnEvent: d.report,
		Replace: func(at guestmem.Ptr) bool { return d.journal.Replace(at) },
	}
}

// maxFrame is the longest frame in bytes, without FCS, with two tags.
func maxFrame(c config.Config) int {
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
	go d.collect(ctx)
	switchCtx, stopSwitch := context.WithCancel(context.Background())
	defer stopSwitch()
	switchDone := make(chan error, 1)
	go func() { switchDone <- d.sw.Run(switchCtx) }()

	serveCtx, stopServing := context.WithCancel(ctx)
	defer stopServing()
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
	deadline := time.Now().Add(StopTimeout)
	ended := d.closeSockets(deadline.Add(-time.Second))
	stopSwitch()
	select {
	case switchErr := <-switchDone:
		err = multierror.Append(nil, err, switchErr).ErrorOrNil()
	case <-time.After(time.Until(deadline)):
		d.log.Error("the workers did not stop in time; exiting without them", "waited", StopTimeout)
		return err // what they use must stay
	}
	d.finish(ended, deadline)
	return err
}

// StopTimeout bounds the end of Run.
const StopTimeout = 5 * time.Second

// finish closes what is left when the workers have ended, unless a device that has not ended may still use it.
func (d *Daemon) finish(ended bool, deadline time.Time) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.closeUplink()
		if ended && d.journal != nil {
			d.journal.Close()
		}
		if err := d.persistPorts(); err != nil {
			d.log.Error("remembering when ports were used", "error", err)
		}
	}()
	select {
	case <-done:
	case <-time.After(max(time.Until(deadline), 100*time.Millisecond)):
		d.log.Error("the uplink, or the disk of the state directory, did not stop in time; exiting without it")
	}
}

// mostRings is how many rings all ports together can have.
func (d *Daemon) mostRings() int { return forward.MaxPorts * 2 * d.config.MaxQueuePairs }

// journalDir is where the ring journal is. It is of use until the machine starts anew, and workers store into it: where the control socket's
// directory is in memory, it is there, because a page of a file on a disk can keep a worker waiting until it is written.
func (d *Daemon) journalDir() string {
	run := filepath.Dir(d.config.ControlSocket)
	var fs unix.Statfs_t
	if unixsocket.MakeDirectory(run) == nil && unix.Statfs(run, &fs) == nil && fs.Type == unix.TMPFS_MAGIC {
		return run
	}
	return d.config.StateDir
}

// openJournal: without it everything works but the restart under packed rings.
func (d *Daemon) openJournal() {
	err := unixsocket.MakeDirectory(d.config.StateDir)
	if err == nil {
		d.journal, err = vhost.OpenJournal(filepath.Join(d.journalDir(), "rings.journal"), d.mostRings(), d.log)
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
	d.answer(ctx, control.NewServer(listener, d, d.budget, d.log))
	if err := d.serveBroker(ctx); err != nil {
		return err
	}
	go d.keepPorts(ctx)
	go d.showStats(ctx)
	d.log.Info("ready", "sockets", d.config.SocketFiles, "devices", d.config.CUSEPaths(), "control", d.config.ControlSocket, "uplink", d.config.Uplink,
		"vm2vm", d.config.VM2VM, "cores", d.config.Cores, "poll", d.config.Poll)
	return nil
}

// controlSocket is the service manager's, if it has one for us, or one of our own.
func (d *Daemon) controlSocket() (net.Listener, error) {
	if l, err := inherited("control"); l != nil || err != nil {
		return l, err
	}
	if err := unixsocket.MakeDirectory(filepath.Dir(d.config.ControlSocket)); err != nil {
		return nil, fmt.Errorf("directory of the control socket: %w", err)
	}
	return unixsocket.Listen(d.config.ControlSocket, unixsocket.Access{Group: d.config.SocketGroup})
}

// answer serves requests until ctx ends.
func (d *Daemon) answer(ctx context.Context, s *control.Server) {
	d.mu.Lock()
	d.servers = append(d.servers, s)
	d.mu.Unlock()
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
