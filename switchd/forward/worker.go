package forward

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
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
	guard   guard

	table  *table
	tx     []*transmitRing
	uplink []*uplinkQueue // to receive from
	out    *uplinkQueue   // to send on
	sleep  sleeper
	fence  guestmem.Fence

	burst       virtio.Burst                // what a sender offers
	rxBurst     virtio.Burst                // what a receiver offers
	frames      [virtio.BurstSize + 1]frame // of the burst, and scratchFrame
	received    [virtio.BurstSize]uplink.RxFrame
	sending     [virtio.BurstSize]uplink.TxFrame
	segments    []guestmem.Segment                    // of the frames being sent to the uplink
	fromOutside [virtio.BurstSize][1]guestmem.Segment // of the frames received from it
	lane        express
	notices     notices
	groups      groups
	addresses   *addressTable
	lastTo      ether.MAC     // destination of the frame before in this burst
	lastPort    int           // and its port, -1 for none
	source      *transmitRing // being polled, for the blame of a fault
	scratch     scratch
	requests    bool     // some frame of the burst leaves a checksum or segmentation to others
	discard     counters // for frames that nobody sent
}

// workerStats are updated once a round at most.
type workerStats struct {
	rounds, empty, sleeps, wakeups atomic.Uint64
	busy                           atomic.Int64 // nanoseconds not asleep, up to the last sleep
	since                          atomic.Int64 // nanoseconds at which it woke up, 0 while asleep
	rings                          atomic.Int32
}

func newWorker(s *Switch, index, core int) (*worker, error) {
	w := &worker{sw: s, index: index, core: core, alone: len(s.config.Cores) == 1}
	w.segments = make([]guestmem.Segment, 0, 4*virtio.BurstSize)
	w.notices.init()
	w.groups.init()
	if err := w.scratch.init(); err != nil {
		return nil, err
	}
	if err := w.sleep.init(); err != nil {
		return nil, err
	}
	w.table = &table{}
	w.openUplink()
	return w, nil
}

func (w *worker) close() {
	w.sleep.close()
	w.scratch.close()
}

// run is the worker's life. Memory faults become panics that ingress and delivery recover; see guestmem.Recovered.
func (w *worker) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w.pin()
	debug.SetPanicOnFault(true)
	w.stats.since.Store(w.sw.now())
	idle := time.Time{}
	for w.adopt() {
		if w.index == 0 && w.sw.announcing.Load() {
			w.announce()
		}
		work := 0
		for _, r := range w.tx {
			work += w.ingress(r)
		}
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
		idle = w.rest(idle)
	}
}

// adopt moves to the newest table and tells the control side. It reports whether to go on.
func (w *worker) adopt() bool {
	t := w.sw.table.Load()
	w.addresses = w.sw.fdb.table.Load()
	if asked := w.sw.quiet.asked.Load(); asked != w.seen {
		w.seen = asked
		w.pass(asked)
	}
	if t == w.table {
		return true
	}
	w.source = nil
	w.table = t
	w.tx = t.tx[w.index]
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

// wakeFresh wakes the drivers of rings that have just started. The switch may have been killed between returning buffers and saying so, and a
// driver that sleeps on a full ring would never hear of it.
func (w *worker) wakeFresh() {
	for _, v := range w.table.ports {
		if v == nil {
			continue
		}
		for _, r := range v.rx {
			if r.fresh && r.queue.CallFD() >= 0 {
				w.call(r.queue, r.port, r.c)
			}
			r.fresh = false
		}
		for _, r := range v.tx {
			if r.fresh && r.queue.CallFD() >= 0 {
				w.call(r.queue, r.port, r.c)
			}
			r.fresh = false
		}
	}
}

// pin binds the thread to its core. A core that cannot be had is no reason not to serve.
func (w *worker) pin() {
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
	loop      uint16 // VLAN with which the NIC takes the frame to another port (--vm2vm 2); 0: it goes elsewhere
}

const headerLen = ether.HeaderLen
