package ixgbe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"

	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// ErrNotSupported says that the device is none that this driver knows.
var ErrNotSupported = errors.New("not an 82599")

// What an 82599 can do beyond the core.
var (
	_ uplink.Filterer  = (*NIC)(nil)
	_ uplink.DMAMapper = (*NIC)(nil)
	_ uplink.Checker   = (*NIC)(nil)
)

// NIC is an open 82599. It implements uplink.Uplink and the optional interfaces above.
type NIC struct {
	config Config
	log    *slog.Logger
	dev    pci.Device
	r      pci.Registers
	queues []*queue
	lost   counters

	poolRings bool        // ports send on their pools' rings
	down      atomic.Bool // it does not run, or there is no link: what is sent is lost
	carrier   atomic.Bool
	mapped    atomic.Pointer[[]*mappedMemory] // by port; replaced as a whole
	checks    checks

	// Locks, in the order in which they are taken. What takes long is done under the first two alone: the others wait for no guest.
	filtering sync.Mutex // AddFilter and RemoveFilter; the making of pools' rings
	mapping   sync.Mutex // MapDMA and UnmapDMA; the mapping of guests' memory
	mu        sync.Mutex // what follows, and all registers but the rings' tails

	state    state
	pools    []pool
	filters  [regs.RARs]filter
	software map[filter]bool // addresses that the hardware has no place for
	fallback bool            // the default pool is in use
	linkTry  time.Time       // when the link was last started
	stale    []*mappedMemory // of guests that have left meanwhile

	stop context.CancelFunc
	done chan struct{}
}

// pool is a set of queues for one port.
type pool struct {
	tx         atomic.Pointer[txRing] // nil before it runs
	sending    *txRing                // the same, from when it is made
	rx         []*rxRing              // made when it is first used, and kept
	active     bool                   // its rings are polled
	filters    int                    // addresses
	started    int                    // receive rings that run
	incomplete bool                   // some of the port's addresses are not in the NIC
}

// Open resets the NIC and sets it up. The device is the NIC's from here on, and closed with it, also if Open fails. The link comes up
// later; see Link.
func Open(dev pci.Device, c Config) (*NIC, error) {
	n := &NIC{config: c, log: c.Log, dev: dev, software: map[filter]bool{}, poolRings: c.Loopback || c.AntiSpoof, done: make(chan struct{})}
	n.mapped.Store(&[]*mappedMemory{})
	if n.log == nil {
		n.log = slog.Default()
	}
	n.log = n.log.With("uplink", n.Name())
	if err := n.open(); err != nil {
		err = fmt.Errorf("uplink ixgbe:%s (%s): %w", dev.Address(), dev.Access(), err)
		if closing := dev.Close(); closing != nil {
			err = multierror.Append(err, closing)
		}
		return nil, err
	}
	if checked := c.Layout.worker(len(n.queues)-1) / c.Layout.Stride; c.AntiSpoof {
		n.log.Info("the NIC checks what ports send, too, but for those beyond these, whose pools hold the workers' queues, or who have none", "ports",
			fmt.Sprintf("0-%d", checked-1))
	}
	n.mu.Lock()
	n.enter(running)
	n.watchLink()
	n.mu.Unlock()
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	go n.watch(ctx)
	return n, nil
}

func (n *NIC) open() error {
	c := &n.config
	if c.Queues < 1 || c.Queues > MaxQueues || c.MaxFrame > MaxFrame || c.Layout.Pools == 0 {
		return fmt.Errorf("%d queues, frames of %d bytes, VMDq layout %q: want 1 to %d queues, frames up to %d bytes, and a layout", c.Queues,
			c.MaxFrame, c.Layout.Name, MaxQueues, MaxFrame)
	}
	c.MaxFrame = max(c.MaxFrame, minFrame)
	n.pools = make([]pool, c.Layout.Pools)
	if err := n.identify(); err != nil {
		return err
	}
	var err error
	if n.r, err = n.dev.BAR(0); err != nil {
		return fmt.Errorf("mapping the registers (BAR 0): %w", err)
	}
	for i := range c.Queues {
		tx, err := newTxRing(n.dev, n.r, c.Layout.worker(i), c.bufferSize(), &n.lost)
		if err != nil {
			return err
		}
		q := &queue{nic: n, index: i, tx: tx}
		q.rings.Store(&[]*rxRing{})
		n.queues = append(n.queues, q)
	}
	if err := n.restart(nil); err != nil || !c.Promiscuous {
		return err
	}
	if err := n.makeRings(defaultPool); err != nil { // frames for unknown addresses are in no pool
		return err
	}
	if err := n.activate(defaultPool); err != nil {
		return err
	}
	n.fallBack()
	return nil
}

// identify makes sure that it is an 82599.
func (n *NIC) identify() error {
	id, err := n.dev.ReadConfig(0, 4)
	if err != nil {
		return fmt.Errorf("reading the device's identifier: %w", err)
	}
	if !pci.Supported(uint16(id), uint16(id>>16)) {
		return fmt.Errorf("device %04x:%04x: %w; name an Intel 82599 such as 8086:10fb", id&0xffff, id>>16, ErrNotSupported)
	}
	return nil
}

// The PCI command register and its bits: the device has registers, and may reach memory.
const (
	pciCommand = 4
	pciMemory  = 1 << 1
	pciMaster  = 1 << 2
)

// command changes bits of the PCI command register.
func (n *NIC) command(set, clear uint32) error {
	v, err := n.dev.ReadConfig(pciCommand, 2)
	if err == nil {
		err = n.dev.WriteConfig(pciCommand, 2, v&^clear|set)
	}
	if err != nil {
		return fmt.Errorf("setting bits %#x and clearing bits %#x of the PCI command register: %w; the device does not answer: power it off and on", set,
			clear, err)
	}
	return nil
}

// Name is the device's address.
func (n *NIC) Name() string { return n.dev.Address() }

// Driver is "ixgbe".
func (n *NIC) Driver() string { return "ixgbe" }

// Queues is the number of software queues.
func (n *NIC) Queues() int { return len(n.queues) }

// Queue gives software queue i.
func (n *NIC) Queue(i int) uplink.Queue { return n.queues[i] }

// Pools is how many ports can have a pool.
func (n *NIC) Pools() int { return len(n.pools) }

// Close stops the NIC: it is reset and taken off the bus, so that it reaches no memory any more. Nobody may be sending or receiving.
func (n *NIC) Close() error {
	n.stop()
	<-n.done
	for _, l := range []*sync.Mutex{&n.filtering, &n.mapping, &n.mu} {
		l.Lock()
		defer l.Unlock()
	}
	if n.state == closed {
		return nil
	}
	n.enter(closed)
	result := multierror.Append(nil, n.halt(nil))
	if err := n.command(0, pciMaster); err != nil { // only the device can tell what may still be given back
		return multierror.Append(result, err, n.dev.Close()).ErrorOrNil()
	}
	for _, l := range append(n.stale, *n.mapped.Load()...) { // it will never read anything again
		if l != nil {
			result = multierror.Append(result, n.unmap(l))
		}
	}
	for _, q := range n.queues {
		result = multierror.Append(result, q.tx.close(n.dev))
	}
	for i := range n.pools {
		for _, r := range n.pools[i].rx {
			result = multierror.Append(result, r.close(n.dev))
		}
		if t := n.pools[i].sending; t != nil {
			result = multierror.Append(result, t.close(n.dev))
		}
	}
	return multierror.Append(result, n.dev.Close()).ErrorOrNil()
}
