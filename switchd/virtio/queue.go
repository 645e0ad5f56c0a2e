package virtio

import (
	"errors"
	"fmt"
	"sync/atomic"

	"vhostkit/switchd/guestmem"
)

// MaxQueueSize is the largest ring (virtio 1.2, 2.7 and 2.8).
const MaxQueueSize = 32768

// ErrRing is wrapped by every error about a ring that does not obey the specification. The device that owns the ring is stopped.
var ErrRing = errors.New("broken virtqueue")

// State is where a device stands in a ring: what vhost calls the vring base. For a split ring Avail is the next avail index to read, for a
// packed ring the next position with its wrap counter. The used position equals it: buffers are returned in the order in which they came, and
// one that is held (AllowHold) counts as not read.
type State struct {
	Avail     uint16
	AvailWrap bool // packed only
}

// Config describes a ring that a front-end has set up. The addresses are checked host addresses of the three areas (AreaSizes).
type Config struct {
	Size     uint32   // descriptors; a power of two for split rings
	Features Features // negotiated; VIRTIO_F_RING_PACKED decides about the layout
	Receive  bool     // a receive queue: the device writes into its buffers
	Desc     guestmem.Ptr
	Driver   guestmem.Ptr // split: avail ring; packed: driver event suppression
	Device   guestmem.Ptr // split: used ring; packed: device event suppression
	Memory   *guestmem.Memory
	State    State
	// Journal, if not 0, is where a packed ring's position is stored with every Complete; Resume is what an earlier process left there.
	Journal guestmem.Ptr
	Resume  uint64
	Kick    int // eventfd that the driver writes; -1: the driver is polled
	Call    int // descriptor that wakes the driver; -1: none wanted
	// CallSocket says that Call is a connected AF_UNIX socket, not an eventfd: what user-mode-linux passes.
	CallSocket bool
}

// AreaSizes gives the length in bytes of the descriptor, driver and device areas of a ring (virtio 1.2, 2.7 and 2.8; both event fields
// included).
func AreaSizes(size uint32, packed bool) (desc, driver, device uint64) {
	if packed {
		return 16 * uint64(size), 4, 4
	}
	return 16 * uint64(size), 6 + 2*uint64(size), 6 + 8*uint64(size)
}

func (c *Config) check() error {
	packed := c.Features.Has(VIRTIO_F_RING_PACKED)
	switch {
	case c.Size == 0 || c.Size > MaxQueueSize:
		return fmt.Errorf("%w: size %d is not in 1..%d", ErrRing, c.Size, MaxQueueSize)
	case !packed && c.Size&(c.Size-1) != 0:
		return fmt.Errorf("%w: size %d of a split ring is not a power of two", ErrRing, c.Size)
	case packed && uint32(c.State.Avail) >= c.Size:
		return fmt.Errorf("%w: base %d is outside a packed ring of %d", ErrRing, c.State.Avail, c.Size)
	case c.Desc == 0 || c.Driver == 0 || c.Device == 0:
		return fmt.Errorf("%w: an area has no address", ErrRing)
	case c.Desc%descSize != 0:
		return fmt.Errorf("%w: descriptor area at %#x is not aligned to 16", ErrRing, uintptr(c.Desc))
	case !packed && c.Driver%2 != 0, packed && c.Driver%4 != 0:
		return fmt.Errorf("%w: driver area at %#x is not aligned", ErrRing, uintptr(c.Driver))
	case c.Device%4 != 0:
		return fmt.Errorf("%w: device area at %#x is not aligned to 4", ErrRing, uintptr(c.Device))
	}
	return nil
}

// Queue is a virtqueue as the device sees it. It has one owner at a time; nothing in it is locked. Only the call descriptor may be changed by
// somebody else (SetCall).
type Queue struct {
	desc, driver, device guestmem.Ptr
	memory               *guestmem.Memory
	hint                 guestmem.Hint
	window               guestmem.Window // where the last view lay
	size                 uint32
	maxChain             int    // descriptors of a buffer
	maxTable             int    // entries of an indirect table, of which a split ring's chain need not use all
	write                uint16 // the WRITE flag that descriptors of this queue must carry: 0 or descWrite
	packed, eventIdx     bool
	indirect             bool
	noKick               bool // the driver is asked not to kick

	avail, used         uint16 // next position to fetch from and to return to; split: free-running indices
	availWrap, usedWrap bool   // packed
	availWord           guestmem.Ptr
	availShift          uint // the avail index is at this bit of the 32-bit word at availWord

	held       *holding // nil where nothing is ever held
	unreturned uint32   // slots of what is held

	completed uint64 // chains completed by Complete and CompleteViews
	returned  uint32 // packed: slots, split: entries returned since the last CallDue
	callIndex uint16 // used position at the last NeedsCall
	callWrap  bool
	kick      int
	call      atomic.Int64 // a descriptor and callIsSocket; CallFD
	journal   guestmem.Ptr
	resume    uint64
	features  Features
}

// NewQueue checks the configuration and makes a queue that continues at Config.State. It touches no guest memory.
func NewQueue(c Config) (*Queue, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	q := &Queue{
		desc: c.Desc, driver: c.Driver, device: c.Device, memory: c.Memory, size: c.Size,
		maxChain: maxTransmitChain,
		maxTable: max(int(c.Size), maxTransmitChain),
		packed:   c.Features.Has(VIRTIO_F_RING_PACKED),
		eventIdx: c.Features.Has(VIRTIO_F_EVENT_IDX),
		indirect: c.Features.Has(VIRTIO_F_INDIRECT_DESC),
		avail:    c.State.Avail, availWrap: c.State.AvailWrap, used: c.State.Avail, usedWrap: c.State.AvailWrap,
		noKick: true,
		kick:   c.Kick, features: c.Features,
		journal: c.Journal, resume: c.Resume,
	}
	q.SetCall(c.Call, c.CallSocket)
	if c.Receive {
		q.write, q.maxChain = descWrite, maxReceiveChain
	}
	if !q.packed {
		q.locateAvailIndex()
	}
	q.callIndex, q.callWrap = q.used, q.usedWrap
	return q, nil
}

// State tells where the device stands, to be handed to the front-end or to a new Queue.
func (q *Queue) State() State {
	return State{Avail: q.used, AvailWrap: q.usedWrap}
}

// Size is the number of descriptors.
func (q *Queue) Size() int { return int(q.size) }

// Packed tells the ring's kind.
func (q *Queue) Packed() bool { return q.packed }

// Features are the features that were negotiated for the device.
func (q *Queue) Features() Features { return q.features }

// KickFD is the eventfd that the driver writes to when it has made buffers available and was asked to tell; -1 if there is none. The
// vhost device owns it.
func (q *Queue) KickFD() int { return q.kick }

// Fetch appends chains that the driver has made available to the burst until it holds limit of them (at most BurstSize) and returns how
// many the burst holds now. The chains stay the driver's until Complete. An error means that the ring is broken; chains in the burst
// before the bad one are good.
func (q *Queue) Fetch(b *Burst, limit int) (int, error) {
	limit = min(limit, BurstSize)
	if q.packed {
		return q.fetchPacked(b, limit)
	}
	return q.fetchSplit(b, limit)
}

// Complete returns the first n chains of the burst to the driver with their Written lengths and makes that visible at once.
func (q *Queue) Complete(b *Burst, n int) {
	if n == 0 {
		return
	}
	if q.packed {
		q.completePacked(b, n)
	} else {
		q.completeSplit(b, n)
	}
	q.completed += uint64(n)
}

// Completed is how many chains were completed since the queue was made. While it stays, the next chain is the same: what the driver has made
// available it must not change.
func (q *Queue) Completed() uint64 { return q.completed }
