package ixgbe

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
	"vhostkit/test/nic82599"
)

// recorder writes down what the driver writes to registers.
type recorder struct {
	pci.Device
	mu     sync.Mutex
	writes []written
}

type written struct{ offset, value uint32 }

func (d *recorder) BAR(i int) (pci.Registers, error) {
	r, err := d.Device.BAR(i)
	return &recording{r, d}, err
}

type recording struct {
	pci.Registers
	d *recorder
}

func (r *recording) Write32(offset, value uint32) {
	r.d.mu.Lock()
	r.d.writes = append(r.d.writes, written{offset, value})
	r.d.mu.Unlock()
	r.Registers.Write32(offset, value)
}

// to lists the values that were written to a register.
func (d *recorder) to(offset uint32) (values []uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.writes {
		if w.offset == offset {
			values = append(values, w.value)
		}
	}
	return values
}

// order tells where a bit was first written as wanted after a position.
func (d *recorder) order(from int, offset, bit uint32, set bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := from; i < len(d.writes); i++ {
		if w := d.writes[i]; w.offset == offset && (w.value&bit != 0) == set {
			return i
		}
	}
	return -1
}

func newRecordedRig(t *testing.T, c Config, m nic82599.Config) (*rig, *recorder) {
	t.Helper()
	d := &recorder{}
	return newRigOn(t, c, m, func(model pci.Device) pci.Device { d.Device = model; return d }), d
}

// What comes out of a reset is not what is needed, nor is it always the same (4.6.7): each register that matters is written, and tables are
// emptied.
func TestSetUpLeavesNothingToChance(t *testing.T) {
	initial := map[uint32]uint32{
		regs.ESDP: regs.ESDP_SDP3 | 1<<8, regs.AUTOC: 7<<regs.AUTOC_LMS_SHIFT | regs.AUTOC_FLU, regs.AUTOC2: 1 << regs.AUTOC2_10G_SHIFT,
		regs.MTA(5): 0xffffffff, regs.MTA(127): 1, regs.PFUTA(9): 4, regs.FTQF(3): 1 << 31, regs.VLVF(40): regs.VLVF_VIEN | 1003,
		regs.VLVFB(80): 0xffffffff, regs.VLVFB(81): 0xffffffff, regs.VMOLR(7): regs.VMOLR_AUPE, regs.VMVIR(3): regs.VMVIR_VLANA_DEFAULT | 7,
		regs.PFVFSPOOF(2): 0xffff, regs.RAL(77): 5, regs.RAH(77): regs.RAH_AV, regs.MPSAR_LO(77): 8, regs.MPSAR_HI(78): 8,
		regs.SECRXCTRL: regs.SECRXCTRL_RX_DIS, regs.TXPBTHRESH(0): 1, regs.TXPBTHRESH(5): 9, regs.TXPBSIZE(5): 1 << 10, regs.RXPBSIZE(5): 1 << 10,
		regs.GPRC: 77, regs.GPTC: 78, regs.QPRDC(0): 79, regs.RXMPC(3): 80, regs.CRCERRS: 81, regs.ROC: 82, regs.SSVPC: 83, regs.QDE: 1 << 16,
	}
	for q := range regs.RXQueues {
		initial[regs.DCA_RXCTRL(q)], initial[regs.DCA_TXCTRL(q)] = regs.DCA_RXCTRL_RO_WR|1, regs.DCA_TXCTRL_WRO|1
	}
	r, d := newRecordedRig(t, Config{Layout: mustLayout(t, "32x4"), VLANStrip: true, Queues: 2}, nic82599.Config{Initial: initial})
	if s := counted(r.Counters()); !maps.Equal(s, counts{}) {
		t.Errorf("it counts what was before: %+v", s)
	}
	r.add(3)
	const running = 1<<25 | 36 | 8<<8 // ENABLE, PTHRESH, HTHRESH, and WTHRESH 0
	want := map[string]uint32{
		"ESDP": 1 << 8, "AUTOC": 3<<13 | 1, "AUTOC2": 2 << 16, "CTRL_EXT": 1<<16 | 1<<28, "SECRXCTRL": 0, "RTTDCS": 0, "TXPBSIZE[0]": 160 << 10,
		"TXPBTHRESH[0]": 160, "TXPBTHRESH[5]": 0, "TXPBSIZE[5]": 0, "RXPBSIZE[0]": 512 << 10, "RXPBSIZE[5]": 0, "TXDCTL[127]": running,
		"TXDCTL[126]": running, "TXDCTL[12]": 0, "DCA_TXCTRL[127]": 1, "DCA_TXCTRL[126]": 1, "QDE": 0, "PFVFSPOOF[2]": 0, "VMOLR[7]": 0, "VMVIR[3]": 0,
		"MTA[5]": 0, "MTA[127]": 0, "PFUTA[9]": 0, "FTQF[3]": 0, "VLVF[40]": 0, "VLVFB[80]": 0, "VLVFB[81]": 0, "RAL[77]": 0, "RAH[77]": 0,
		"MPSAR_LO[77]": 0, "MPSAR_HI[78]": 0, "DTXMXSZRQ": 0xfff, "HLREG0": 1 | 1<<1 | 1<<2 | 1<<10 | 1<<11, "MAXFRS": uint32(minFrame+4) << 16,
		"RDRXCTL": 1<<1 | 1<<3 | 1<<25 | 1<<26, "DMATXCTL": 1, "RXCTRL": 1,
	}
	for q := 12; q < 16; q++ { // the pool's
		want[fmt.Sprintf("SRRCTL[%d]", q)] = 2 | 1<<25 | 1<<28 // buffers of 2 KiB, one of them a descriptor, DROP_EN
		want[fmt.Sprintf("DCA_RXCTRL[%d]", q)], want[fmt.Sprintf("RXDCTL[%d]", q)] = 1, 1<<25|1<<30
	}
	r.registers(want)
	if list := d.to(regs.AUTOC); len(list) == 0 || list[len(list)-1]&regs.AUTOC_RESTART == 0 {
		t.Errorf("the link is not started: AUTOC was written %#x", list)
	}
	at := 0
	for _, step := range []struct {
		what        string
		offset, bit uint32
		set         bool
	}{
		{"the reset", regs.CTRL, regs.CTRL_RST, true}, {"the arbiter is stopped", regs.RTTDCS, regs.RTTDCS_ARBDIS, true},
		{"MTQC", regs.MTQC, regs.MTQC_VT_ENA, true}, {"the arbiter goes on", regs.RTTDCS, regs.RTTDCS_ARBDIS, false},
		{"the receive path is stopped", regs.SECRXCTRL, regs.SECRXCTRL_RX_DIS, true}, {"reception", regs.RXCTRL, regs.RXCTRL_RXEN, true},
		{"the receive path goes on", regs.SECRXCTRL, regs.SECRXCTRL_RX_DIS, false},
	} {
		next := d.order(at, step.offset, step.bit, step.set)
		if next < 0 {
			t.Fatalf("%s: register %s is not written so, or not in turn", step.what, regs.Name(step.offset))
		}
		at = next + 1
	}
}

// A burst is one write to the tail, and a request for a report every 32 descriptors; each descriptor of data says what a NIC that switches needs.
func TestBurstOfDescriptors(t *testing.T) {
	r, d := newRecordedRig(t, Config{}, nic82599.Config{})
	m := newMemory(t, 1<<16)
	tx := r.queues[0].tx
	var frames []uplink.TxFrame
	for i := range 64 {
		frames = append(frames, m.frame(0, base, eth(stranger, mac(0), 0, 100, i), 1))
	}
	before := len(d.to(tx.tailReg))
	r.send(frames...)
	if tails := d.to(tx.tailReg)[before:]; !slices.Equal(tails, []uint32{65}) { // a context comes first
		t.Errorf("the tail was written %v for a burst of 64 frames, want 65 once", tails)
	}
	reports, data := []int{}, 0
	for i := range tx.tail {
		hi := tx.desc[i].hi
		if hi&regs.TXD_RS != 0 {
			reports = append(reports, int(i))
		}
		if hi&regs.TXD_DTYP != regs.TXD_DTYP_DATA {
			continue
		}
		data++
		const all = uint64(regs.TXD_CC)<<32 | regs.TXD_IFCS | regs.TXD_DEXT | regs.TXD_VLE | regs.TXD_EOP
		if hi&all != all {
			t.Errorf("descriptor %d says %#x, want %#x in it", i, hi, all)
		}
	}
	if data != 64 || !slices.Equal(reports, []int{31, 63}) {
		t.Errorf("%d descriptors of data, reports are asked for by %v, want 64, and 31 and 63", data, reports)
	}
	for range frames {
		r.out()
	}
}

// The path of frames allocates nothing: received, copied and lent, of ports with a pool's ring and without.
func TestNoAllocations(t *testing.T) {
	n, err := Open(eager{newPlain()}, Config{Queues: 1, Layout: mustLayout(t, ""), VLANBase: base, VLANStrip: true, AntiSpoof: true, Watch: time.Hour,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.AddFilter(0, mac(0), base); err != nil {
		t.Fatal(err)
	}
	guest := guestMemory(t)
	if err := n.MapDMA(1, guest); err != nil {
		t.Fatal(err)
	}
	payload, _ := guest.User(1<<32, 1<<20)
	q := n.queues[0]
	rx := (*q.rings.Load())[0]
	const count = 64
	received, sending := make([]uplink.RxFrame, count), make([]uplink.TxFrame, count)
	segments := make([]guestmem.Segment, count)
	header := uplink.TxFrame{HeaderLen: ether.HeaderLen + ether.TagLen}
	ether.PutTag(header.Header[:], base)
	wire, lent := uint32(0), 0
	var loan uplink.InFlight
	rings := n.txRings()
	round := func(port int, loan *uplink.InFlight) {
		for range count { // the NIC receives
			rx.desc[wire&rxMask] = descriptor{hi: regs.RXD_STAT_DD | regs.RXD_STAT_EOP | regs.RXD_STAT_VP | 60<<regs.RXD_LEN_SHIFT | base<<regs.RXD_VLAN_SHIFT}
			wire++
		}
		if got, err := q.Receive(received); got != count || err != nil {
			t.Fatalf("received %d frames: %v", got, err)
		}
		for i := range count {
			f, s := &sending[i], &segments[i]
			f.Header, f.HeaderLen, f.Pool = header.Header, header.HeaderLen, uplink.Pool(port)
			*s = guestmem.Segment{Addr: received[i].Addr + ether.HeaderLen, Len: received[i].Len - ether.HeaderLen}
			if loan != nil {
				*s = guestmem.Segment{Addr: payload + guestmem.Ptr(i*2048), Len: 1000}
			}
			f.Segs, f.Len = segments[i:i+1], int(f.HeaderLen)+int(s.Len)
		}
		if sent, err := q.Send(sending, loan); sent != count || err != nil {
			t.Fatalf("sent %d frames: %v", sent, err)
		}
		if loan != nil && loan.Ring != nil {
			lent++
		}
		for _, tx := range rings { // the NIC reports
			for i := tx.rsHead; i != tx.rsTail; i++ {
				tx.desc[tx.reports[i%txSize]&txMask].hi |= txDone
			}
		}
	}
	if n.pools[0].tx.Load() == nil {
		t.Fatal("port 0 has no ring of its own")
	}
	for name, do := range map[string]func(){
		"copied": func() { round(0, nil) }, "copied, of a port without a pool": func() { round(70, nil) }, "lent": func() { round(1, &loan) },
	} {
		if got := testing.AllocsPerRun(100, do); got > 0 {
			t.Errorf("%s: %v allocations in a burst, want none", name, got)
		}
	}
	if lent != 101 {
		t.Errorf("%d bursts of 101 were lent", lent)
	}
}
