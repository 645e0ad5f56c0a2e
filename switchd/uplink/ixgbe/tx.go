package ixgbe

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/go-multierror"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// txRing is a transmit queue of the NIC. It has one user at a time, who owns it.
type txRing struct {
	desc       *txDescriptors
	registry   pci.Registers
	tailReg    uint32 // offset of TDT
	tail       uint32 // free running, also over a reset: the next descriptor to write
	clean      uint32 // free running: descriptors before this one are free
	reported   uint32 // free running: behind the last descriptor that asks for a write-back
	reports    [txSize]uint32
	rsHead     uint32 // reports[rsHead:rsTail] are waited for; free running
	rsTail     uint32
	context    uint32 // the context that the NIC has: VLAN and MACLEN, as in the descriptor; noContext
	inPlace    uint64 // frames of this send that the NIC reads from their senders' memory
	inFlightTo uint32 // tail after the last frame that is read in place
	inFlight   bool   // that one was not reported yet
	stopped    bool   // the NIC is not there: what is sent is lost
	longest    int    // bytes in a buffer
	lost       *counters
	addr       [txSize]guestmem.Ptr
	iova       [txSize]uint64

	owned   atomic.Uint32
	sent    atomic.Uint32 // tail, for the watchdog
	done    atomic.Uint32 // clean, for everybody
	number  int           // of the queue
	ring    pci.DMA
	scratch []byte // a frame to be segmented and a segment of it
	buffers
}

const (
	noContext = ^uint32(0)
	// longestTSO is the longest frame that may ask for segmentation: 64 KiB of IP and its headers.
	longestTSO = 65535 + ether.HeaderLen + 2*ether.TagLen
)

func newTxRing(dev pci.Device, registers pci.Registers, number, bufferSize int, lost *counters) (*txRing, error) {
	t := &txRing{registry: registers, tailReg: regs.TDT(number), number: number, longest: bufferSize, lost: lost}
	var err error
	if t.ring, err = dev.AllocDMA(txSize * regs.DescSize); err != nil {
		return nil, fmt.Errorf("descriptors of transmit queue %d: %w", number, err)
	}
	t.desc = txView(t.ring)
	if err := t.allocate(dev, txSize, bufferSize); err != nil {
		return nil, multierror.Append(fmt.Errorf("transmit queue %d: %w", number, err), t.close(dev)).ErrorOrNil()
	}
	copy(t.addr[:], t.buffers.addr)
	copy(t.iova[:], t.buffers.iova)
	t.scratch = make([]byte, 2*longestTSO)
	t.reset()
	return t, nil
}

// reset forgets what was under way: the NIC reads none of it any more. The queue must be disabled. Positions go on with the next round, so
// that those who wait for one see it passed.
func (t *txRing) reset() {
	clear(t.desc[:])
	start := (t.tail + txMask) &^ txMask
	t.tail, t.clean, t.reported, t.rsHead, t.rsTail, t.context, t.inFlight = start, start, start, 0, 0, noContext, false
	t.sent.Store(start)
	t.done.Store(start)
}

// unsent counts the frames from a descriptor on that the NIC was told of.
func (t *txRing) unsent(head uint32) (frames uint64) {
	for at := head & txMask; at != t.sent.Load()&txMask; at = (at + 1) & txMask {
		if hi := t.desc[at].hi; hi&regs.TXD_DTYP == regs.TXD_DTYP_DATA && hi&regs.TXD_EOP != 0 {
			frames++
		}
	}
	return frames
}

// own waits until the ring is the caller's.
func (t *txRing) own() {
	for spins := 0; !t.owned.CompareAndSwap(0, 1); spins++ {
		if spins >= 100 {
			runtime.Gosched()
		}
	}
}

func (t *txRing) disown() { t.owned.Store(0) }

// send copies frames into the ring's buffers, or lets the NIC read them in place if it has their memory mapped, and tells the
// NIC, once. See uplink.Queue.
func (t *txRing) send(frames []uplink.TxFrame, from *mappedMemory, inFlight *uplink.InFlight) (sent int, err error) {
	t.own()
	defer t.finish(&sent, &err, inFlight)
	if t.stopped {
		t.lost.down.Add(uint64(len(frames)))
		return 0, nil
	}
	need := uint32(2)
	if from != nil {
		need += maxPieces
	}
	for i := range frames {
		f := &frames[i]
		switch {
		case t.room() < need:
			t.lost.full.Add(uint64(len(frames) - i))
			return i, nil
		case f.Offload.GSOType != 0:
			if !t.segment(f) {
				t.lost.full.Add(uint64(len(frames) - i))
				return i, nil
			}
		case from != nil && t.putInPlace(f, from):
			t.inPlace++
		default:
			t.put(f)
		}
		sent = i + 1
	}
	return sent, nil
}

// finish hands over what is complete, also when a sender's memory vanished in the middle of a frame: only that frame is not.
func (t *txRing) finish(sent *int, err *error, inFlight *uplink.InFlight) {
	if fault := guestmem.Recovered(recover()); fault != nil {
		*err = fmt.Errorf("reading a frame for transmit queue %d: %w", t.number, fault)
		t.context = noContext // it may be among the descriptors that are not handed over
	}
	if t.inPlace > 0 {
		t.report()
		*inFlight = uplink.InFlight{Ring: t, Until: t.tail}
		t.lost.lent.Add(t.inPlace)
		t.inPlace, t.inFlightTo, t.inFlight = 0, t.tail, true
	}
	if tail := t.tail; tail != t.sent.Load() {
		t.registry.Write32(t.tailReg, tail&txMask)
		t.sent.Store(tail)
	}
	t.disown()
}

// room is how many descriptors are free. The ring is never filled to the last one: tail and head would meet (7.2.3.3).
func (t *txRing) room() uint32 {
	if free := txSize - 1 - (t.tail - t.clean); free >= txSize/4 {
		return free
	}
	t.reclaim()
	return txSize - 1 - (t.tail - t.clean)
}

// reclaim frees the descriptors up to the last one that the NIC reported.
func (t *txRing) reclaim() {
	for t.rsHead != t.rsTail {
		at := t.reports[t.rsHead%uint32(len(t.reports))]
		if atomic.LoadUint64(&t.desc[at&txMask].hi)&txDone == 0 {
			break
		}
		t.clean = at + 1
		t.rsHead++
	}
	// Noted as soon as it is so: positions are compared by their distance, which says nothing once it is half of all.
	t.inFlight = t.inFlight && int32(t.clean-t.inFlightTo) < 0
	t.done.Store(t.clean)
}

// put copies one frame into the next buffer. Nothing of it counts before the last line.
func (t *txRing) put(f *uplink.TxFrame) {
	vlan, tagged := insertable(f)
	length := f.Len
	if tagged {
		length -= ether.TagLen
	}
	if length > t.longest || length < ether.HeaderLen {
		t.lost.rejected.Add(1)
		return
	}
	slot, next := t.prepare(vlan)
	p := t.addr[slot]
	out := putHeader(p, f, tagged)
	for i := range f.Segs {
		s := &f.Segs[i]
		guestmem.Copy(p+out, s.Addr, int(s.Len))
		out += guestmem.Ptr(s.Len)
	}
	if f.Offload.Flags != 0 && !t.complete(f, p, length, tagged) {
		t.lost.rejected.Add(1)
		t.context = noContext // a new one stands where the next frame will
		return
	}
	if length < txMinFrame {
		clear((p + guestmem.Ptr(length)).Bytes(txMinFrame - length))
		length = txMinFrame
	}
	t.commit(next, length, tagged)
}

// putHeader writes a frame's header, without a tag that the NIC inserts, and returns its length in bytes.
func putHeader(p guestmem.Ptr, f *uplink.TxFrame, tagged bool) guestmem.Ptr {
	h := &f.Header
	p.StoreU64(binary.LittleEndian.Uint64(h[0:8]))
	high, length := binary.LittleEndian.Uint64(h[6:14]), guestmem.Ptr(ether.HeaderLen)
	if tagged {
		high = high&(1<<48-1) | uint64(binary.LittleEndian.Uint16(h[16:18]))<<48
	} else if f.HeaderLen > ether.HeaderLen {
		(p + 14).StoreU32(binary.LittleEndian.Uint32(h[14:18]))
		length += ether.TagLen
	}
	(p + 6).StoreU64(high)
	return length
}

// insertable tells whether the frame's tag can be left to the NIC (7.2.3.2.3, VLAN; DCMD.VLE), and what it says.
func insertable(f *uplink.TxFrame) (vlan uint16, ok bool) {
	if f.HeaderLen != ether.HeaderLen+ether.TagLen || binary.BigEndian.Uint16(f.Header[12:]) != ether.TypeVLAN {
		return 0, false
	}
	return binary.BigEndian.Uint16(f.Header[14:]), true
}

// complete makes the checksum that the sender left to others.
func (t *txRing) complete(f *uplink.TxFrame, p guestmem.Ptr, length int, tagged bool) bool {
	start := int(f.Offload.CsumStart)
	if !tagged {
		start += int(f.HeaderLen) - ether.HeaderLen
	}
	if start < ether.HeaderLen || start > 0xffff {
		return false
	}
	return ether.CompleteChecksum(p.Bytes(length), uint16(start), f.Offload.CsumOffset) == nil
}

// prepare makes sure that the NIC has the right context and returns the slot for a data descriptor. There is room for two.
func (t *txRing) prepare(vlan uint16) (slot, position uint32) {
	position = t.tail
	want := uint32(vlan)<<txVLANTag | ether.HeaderLen<<txMACLen
	if want != t.context {
		t.desc[position&txMask] = descriptor{lo: uint64(want), hi: txContext}
		t.context = want
		position++
	}
	return position & txMask, position
}

// commit writes the data descriptor for the frame in the buffer at that position. The NIC sees it when the tail moves.
func (t *txRing) commit(position uint32, length int, tagged bool) {
	t.place(position, t.iova[position&txMask], length, frameOptions(length, tagged))
	t.end(position)
}

// frameOptions is what each data descriptor of a frame says.
func frameOptions(length int, tagged bool) uint64 {
	options := txData | uint64(length)<<txPaylen
	if tagged {
		options |= regs.TXD_VLE
	}
	return options
}

// place writes the data descriptor for a piece of a frame.
func (t *txRing) place(position uint32, iova uint64, length int, options uint64) {
	t.desc[position&txMask] = descriptor{lo: iova, hi: options | uint64(length)}
}

// end makes the descriptor at that position the last one of a frame. Everything before it counts now.
func (t *txRing) end(position uint32) {
	t.desc[position&txMask].hi |= regs.TXD_EOP
	t.tail = position + 1
	if t.tail-t.reported >= txReport {
		t.report()
	}
}

// report asks for a write-back of the frame that was put last.
func (t *txRing) report() {
	if t.reported == t.tail {
		return
	}
	t.desc[(t.tail-1)&txMask].hi |= regs.TXD_RS
	t.reported = t.tail
	t.reports[t.rsTail%uint32(len(t.reports))] = t.tail - 1
	t.rsTail++
}

func (t *txRing) close(dev pci.Device) error {
	if err := t.free(dev); err != nil {
		return err
	}
	return dev.FreeDMA(t.ring)
}
