package forward

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/eventfd"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/ticks"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/virtio"
)

// worker polls its share of the transmit rings and uplink queues on a thread of its own. Everything in it is the worker's alone but for
// the atomics.
type worker struct {
	sw      *Switch
	index   int
	core    int  // -1: not pinned
	alone   bool // there is no other worker
	passed  atomic.Uint64
	quiet   atomic.Uint64 // the number of quiescence that it has passed
	seen    uint64        // the same, for the worker itself
	watched uint64        // rounds at the last look of Alive
	stats   workerStats
	still   atomic.Bool // it touches no guest memory, and looks for a request to park before it does

	table   *table
	tx      []*transmitRing
	uplink  []*uplinkQueue // to receive from
	out     *uplinkQueue   // to send on
	pace    pace
	sleep   sleeper
	signals *eventfd.Signaler
	fence   guestmem.Fence

	burst      virtio.Burst                // what a sender offers
	rxBurst    virtio.Burst                // what a receiver offers
	frames     [virtio.BurstSize + 1]frame // of the burst, and scratchFrame
	received   [virtio.BurstSize]uplink.RxFrame
	sending    [virtio.BurstSize]uplink.TxFrame
	segments   []guestmem.Segment                    // of the frames being sent to the uplink
	oneSegment [virtio.BurstSize][1]guestmem.Segment // of the frames received from it
	fast       fastPath
	notices    notices
	groups     groups
	addresses  *bridge.Table      // of the domain of the ring that is being polled
	lastTo     ether.MAC          // destination of the frame before in this burst
	lastAt     bridge.Destination // and where it is
	source     *transmitRing      // being polled, for the blame of a fault
	scratch    scratch
	patience   atomic.Int64 // nanoseconds that it may still wait for receivers in this tick
	loss       Reason       // why the last receiver of a frame for everybody, or of a frame in pieces, did not get it
	taken      int          // frames of the burst that were looked at and are not yet counted
	requests   bool         // some frame of the burst leaves a checksum or segmentation to others
	discard    counters     // for frames that nobody sent
}

// workerStats are updated once a round at most.
type workerStats struct {
	rounds, empty, sleeps, wakeups atomic.Uint64
	busy                           atomic.Int64 // nanoseconds not asleep, up to the last sleep
	since                          atomic.Int64 // nanoseconds at which it woke up, 0 while asleep
	rings                          atomic.Int32
}

func newWorker(s *Switch, index, core int, scale ticks.Scale) (*worker, error) {
	w := &worker{sw: s, index: index, core: core, alone: len(s.config.Cores) == 1}
	w.patience.Store(int64(workerPatience))
	w.segments = make([]guestmem.Segment, 0, 4*virtio.BurstSize)
	w.notices.init()
	w.groups.init()
	w.pace.init(scale)
	if err := w.scratch.init(); err != nil {
		return nil, err
	}
	var err error
	if w.signals, err = eventfd.New(); err == nil {
		err = w.sleep.init()
	}
	if err != nil {
		w.close()
		return nil, err
	}
	w.table = &table{}
	w.openUplink()
	return w, nil
}

func (w *worker) close() {
	w.sleep.close()
	if w.signals != nil {
		w.signals.Close()
	}
	w.scratch.close()
}

// run is the worker's life. Memory faults become panics that ingress and delivery recover; see guestmem.Recovered.
func (w *worker) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer w.still.Store(true)
	w.pin()
	debug.SetPanicOnFault(true)
	w.stats.since.Store(w.sw.now())
	idle := time.Time{}
	for w.adopt() {
		if w.index == 0 && w.sw.announcing.Load() {
			w.announce()
		}
		work := w.round()
		for _, u := range w.uplink {
			work += w.fromUplink(u)
		}
		w.notify()
		w.stats.rounds.Store(w.stats.rounds.Load() + 1)
		if work > 0 {
			idle = time.Time{}
			continue
		}
		w.stats.empty.Store(w.stats.empty.Load() + 1)
		if !w.owes() {
			idle = w.rest(idle)
		}
	}
}

// owes tells whether the worker has put something off that it must not sleep on: a port's turn, an announcement, a ring that another worker has.
func (w *worker) owes() bool {
	return w.pace.waiting || len(w.notices.rx) > 0 || w.index == 0 && w.sw.announcing.Load()
}

// adopt moves to the newest table and tells the control side. It reports whether to go on.
func (w *worker) adopt() bool {
	if p := w.sw.parking.Load(); p != nil {
		w.park(p)
	}
	t := w.sw.table.Load()
	if asked := w.sw.quiet.asked.Load(); asked != w.seen {
		w.seen = asked
		w.pass(asked)
	}
	if t == w.table {
		return !t.closed
	}
	w.source = nil
	w.table = t
	w.tx = t.tx[w.index]
	w.pace.divide(w.tx, w.index, len(w.uplink) > 0)
	w.groups.resize(len(t.ports))
	w.stats.rings.Store(int32(len(w.tx)))
	w.sleep.watch(w.tx, w.uplink)
	if w.index == 0 {
		w.wakeFresh()
	}
	w.passed.Store(t.epoch)
	if t.closed {
		w.quiet.Store(neverAgain)
	}
	return !t.closed
}

// wakeFresh wakes the drivers of rings that have just started.
func (w *worker) wakeFresh() {
	for _, r := range w.table.fresh {
		if r.queue.CallFD() >= 0 && !r.port.broken.Load() {
			w.call(r.queue, r.c)
		}
	}
	w.signals.Flush()
}

// workerNice is the workers' niceness.
const workerNice = -10

// pin binds the thread to its core, and has it go before others. A core that cannot be had is no reason not to serve.
func (w *worker) pin() {
	// Threads of the control side that map and unmap guests' memory, dozens at a time, must not take the processor away. Whoever may not
	// raise its priority (RLIMIT_NICE) serves all the same.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, workerNice)
	if w.core < 0 {
		return
	}
	var set unix.CPUSet
	set.Set(w.core)
	_ = unix.SchedSetaffinity(0, &set)
}

func (w *worker) wakeUp() { w.sleep.wakeUp() }

// now is the switch's monotonic clock in nanoseconds; never 0.
func (s *Switch) now() int64 { return int64(time.Since(s.start)) + 1 }

// frame is a frame on its way: our copy of the Ethernet header, and the payload in the sender's memory.
type frame struct {
	low, high uint64 // bytes 0..7 and 6..13 of the header, as loaded
	segments  []guestmem.Segment
	offset    int // of the payload in segments
	length    int // bytes, header included
	request   offload
	loop      ether.VLAN // VLAN with which the NIC takes the frame to another port (--vm2vm 2); 0: it goes elsewhere
}

const headerLen = ether.HeaderLen
