package nic82599

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// pooled divides the card: pools by MRQC and MTQC, each with an address of its own (mac(16+pool)) and VLAN 100+pool.
func pooled(t *testing.T, mrqc, mtqc uint32, pools ...int) *rig {
	r := newRig(t, Config{MAC: mac(1)})
	r.bringUp()
	r.w(regs.RTTDCS, r.r(regs.RTTDCS)|regs.RTTDCS_ARBDIS)
	r.w(regs.MTQC, mtqc)
	r.w(regs.RTTDCS, r.r(regs.RTTDCS)&^regs.RTTDCS_ARBDIS)
	r.w(regs.MRQC, mrqc)
	r.w(regs.VT_CTL, regs.VT_CTL_VT_EN|regs.VT_CTL_DIS_DEFPL|regs.VT_CTL_REPLEN)
	for i := range 2 {
		r.w(regs.VFRE(i), 0xffffffff)
		r.w(regs.VFTE(i), 0xffffffff)
	}
	for i, p := range pools {
		low, high := uint32(0), uint32(0)
		if p < 32 {
			low = 1 << p
		} else {
			high = 1 << (p - 32)
		}
		m := mac(byte(16 + p))
		r.w(regs.RAL(1+i), uint32(m[0])|uint32(m[1])<<8|uint32(m[2])<<16|uint32(m[3])<<24)
		r.w(regs.MPSAR_LO(1+i), low)
		r.w(regs.MPSAR_HI(1+i), high)
		r.w(regs.RAH(1+i), regs.RAH_AV|uint32(m[4])|uint32(m[5])<<8)
		r.w(regs.VLVFB(2*i), low)
		r.w(regs.VLVFB(2*i+1), high)
		r.w(regs.VLVF(i), regs.VLVF_VIEN|uint32(100+p))
		r.w(regs.VMOLR(p), regs.VMOLR_BAM)
	}
	return r
}

// in is where a frame from the wire has gone: the queues, in order.
func (r *rig) in(f []byte) (queues []int) {
	r.Helper()
	r.nic.Arrive(f)
	return r.filled()
}

func (r *rig) filled() (queues []int) {
	for q := range r.rx {
		if f, _, _ := r.got(q); f != nil {
			queues = append(queues, q)
		}
	}
	slices.Sort(queues)
	return queues
}

func poolMAC(pool int) net.HardwareAddr { return mac(byte(16 + pool)) }

// TestPools: address and VLAN choose the pool, in each of the divisions.
func TestPools(t *testing.T) {
	for _, c := range []struct {
		name       string
		mrqc, mtqc uint32
		stride     int
		pools      []int
	}{
		{"64x2", regs.MRQC_VMDQ64, regs.MTQC_VMDQ64, 2, []int{0, 5, 63}},
		{"32x4", regs.MRQC_VMDQ32RSS, regs.MTQC_VMDQ32, 4, []int{0, 5, 31}},
		{"dcb 32x4", regs.MRQC_VMDQ32DCB, regs.MTQC_DCB32, 4, []int{1, 31}},
		{"dcb 16x8", regs.MRQC_VMDQ16DCB, regs.MTQC_DCB16, 8, []int{2, 15}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := pooled(t, c.mrqc, c.mtqc, c.pools...)
			for _, p := range c.pools {
				r.receive(p * c.stride)
			}
			r.start()
			for i, p := range c.pools {
				q := p * c.stride
				other := c.pools[(i+1)%len(c.pools)]
				for _, f := range []struct {
					name  string
					frame []byte
					want  []int
				}{
					{"its address and VLAN", tag(eth(poolMAC(p), mac(9), "x"), uint16(100+p)), []int{q}},
					{"its address, another's VLAN", tag(eth(poolMAC(p), mac(9), "x"), uint16(100+other)), nil},
					{"its address, no VLAN", eth(poolMAC(p), mac(9), "x"), nil},
					{"for all in its VLAN", tag(eth(everybody, mac(9), "x"), uint16(100+p)), []int{q}},
					{"a VLAN of nobody", tag(eth(everybody, mac(9), "x"), 99), nil},
				} {
					if got := r.in(f.frame); !slices.Equal(got, f.want) {
						t.Errorf("pool %d, %s: queues %v, want %v", p, f.name, got, f.want)
					}
				}
			}
			if n := r.nic.PoolCounters()[c.pools[0]].Received; n != 2 {
				t.Errorf("pool %d counts %d frames, want 2", c.pools[0], n)
			}
		})
	}
}

// TestDefaultPoolAndReplication: what is for no pool, and what is for several.
func TestDefaultPoolAndReplication(t *testing.T) {
	r := pooled(t, regs.MRQC_VMDQ64, regs.MTQC_VMDQ64, 3, 4)
	for _, p := range []int{3, 4, 7} {
		r.receive(2 * p)
	}
	r.w(regs.VLVFB(0), 1<<3|1<<4) // both in VLAN 103
	r.w(regs.FCTRL, regs.FCTRL_BAM|regs.FCTRL_UPE)
	r.start()
	all, nobody := tag(eth(everybody, mac(9), "x"), 103), tag(eth(mac(77), mac(9), "x"), 103)
	if got := r.in(all); !slices.Equal(got, []int{6, 8}) {
		t.Errorf("for all: queues %v", got)
	}
	if got := r.in(nobody); got != nil {
		t.Errorf("for nobody, without a default pool: queues %v", got)
	}
	r.w(regs.VT_CTL, regs.VT_CTL_VT_EN|regs.VT_CTL_REPLEN|7<<regs.VT_CTL_DEFPL_SHIFT)
	if got := r.in(nobody); !slices.Equal(got, []int{14}) {
		t.Errorf("for nobody: queues %v, want the default pool's", got)
	}
	r.w(regs.VT_CTL, regs.VT_CTL_VT_EN|regs.VT_CTL_DIS_DEFPL)
	if got := r.in(all); !slices.Equal(got, []int{6}) {
		t.Errorf("without replication: queues %v", got)
	}
	r.w(regs.VFRE(0), ^uint32(1<<3))
	if got := r.in(tag(eth(poolMAC(3), mac(9), "x"), 103)); got != nil {
		t.Errorf("a pool that may not receive: queues %v", got)
	}
}

// TestReceiveSideScaling: flows spread over a pool's queues, and over none of its neighbours'; a flow stays in one.
func TestReceiveSideScaling(t *testing.T) {
	for _, c := range []struct {
		name       string
		mrqc, mtqc uint32
		perPool    int
	}{
		{"32x4", regs.MRQC_VMDQ32RSS, regs.MTQC_VMDQ32, 4},
		{"64x2", regs.MRQC_VMDQ64RSS, regs.MTQC_VMDQ64, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := pooled(t, c.mrqc|regs.MRQC_RSS_IP4, c.mtqc, 2)
			first := 2 * c.perPool
			for q := range 4 * c.perPool { // those of its neighbours, too
				r.receive(q)
			}
			for i := range 10 {
				r.w(regs.RSSRK(i), 0x6d5a56da+uint32(i)*0x01030507)
			}
			for i := range 32 {
				r.w(regs.RETA(i), 0x03020100)
			}
			r.start()
			used := map[int]int{}
			for host := range 64 {
				f := udp(poolMAC(2), mac(9), 30)
				f[29] = byte(host) // the sender's address
				one, again := r.in(tag(f, 102)), r.in(tag(f, 102))
				if len(one) != 1 || !slices.Equal(one, again) {
					t.Fatalf("host %d: queues %v and %v", host, one, again)
				}
				used[one[0]]++
			}
			for q := first; q < first+c.perPool; q++ {
				if used[q] < 16/c.perPool {
					t.Errorf("queue %d has %d of 64 hosts", q, used[q])
				}
				delete(used, q)
			}
			if len(used) != 0 {
				t.Errorf("hosts are in queues of other pools: %v", used)
			}
		})
	}
}

// TestTrafficClasses: a frame's priority chooses the queue.
func TestTrafficClasses(t *testing.T) {
	r := pooled(t, regs.MRQC_VMDQ16DCB, regs.MTQC_DCB16, 1)
	for i := range 8 {
		r.receive(8 + i)
	}
	up2tc := uint32(0)
	for p := range uint32(8) {
		up2tc |= (7 - p) << (3 * p)
	}
	r.w(regs.RTRUP2TC, up2tc)
	r.start()
	for p := range 8 {
		if got := r.in(tag(eth(poolMAC(1), mac(9), "x"), uint16(p<<13|101))); !slices.Equal(got, []int{8 + 7 - p}) {
			t.Errorf("priority %d: queues %v", p, got)
		}
	}
}

// TestVLANStrip: RXDCTL.VME takes the tag out and reports it.
func TestVLANStrip(t *testing.T) {
	r := pooled(t, regs.MRQC_VMDQ64, regs.MTQC_VMDQ64, 0)
	r.w(regs.RXDCTL(0), regs.RXDCTL_VME)
	r.receive(0)
	r.start()
	plain := eth(poolMAC(0), mac(9), "tagged on the wire")
	r.nic.Arrive(tag(plain, 5<<13|100))
	f, _, status := r.got(0)
	if !slices.Equal(f, plain) || status&regs.RXD_STAT_VP == 0 || status>>regs.RXD_VLAN_SHIFT&0xffff != 5<<13|100 {
		t.Errorf("%x with status %#x", f, status)
	}
}

// TestInternalSwitch: with PFDTXGSWC frames for a pool's address stay inside, and those for all go both ways, but not back.
func TestInternalSwitch(t *testing.T) {
	for _, loop := range []bool{false, true} {
		t.Run(fmt.Sprintf("loopback=%v", loop), func(t *testing.T) {
			r := pooled(t, regs.MRQC_VMDQ64, regs.MTQC_VMDQ64, 1, 2)
			if loop {
				r.w(regs.PFDTXGSWC, regs.PFDTXGSWC_LBE)
				r.w(regs.VMTXSW(0), 0xffffffff)
			}
			for _, p := range []int{1, 2} {
				r.receive(2 * p)
				r.transmit(2 * p)
			}
			r.w(regs.VLVFB(0), 1<<1|1<<2) // both in VLAN 101
			r.start()
			between := tag(eth(poolMAC(2), poolMAC(1), "between"), 101)
			r.send(2, between, 0, 0)
			if !loop {
				if got := r.out(); !slices.Equal(got, between) || r.filled() != nil {
					t.Errorf("without the switch %x is on the wire", got)
				}
				return
			}
			if f, _, status := r.got(4); !slices.Equal(f, between) || status&regs.RXD_STAT_LB == 0 {
				t.Errorf("looped: %x with status %#x", f, status)
			}
			select {
			case f := <-r.wire.Out:
				t.Errorf("a frame between pools is on the wire: %x", f)
			default:
			}
			all := tag(eth(everybody, poolMAC(1), "all"), 101)
			r.send(2, all, 0, 0)
			if got := r.out(); !slices.Equal(got, all) {
				t.Errorf("on the wire %x", got)
			}
			if got := r.filled(); !slices.Equal(got, []int{4}) {
				t.Errorf("for all: queues %v, want the other pool's only", got)
			}
			if c := r.nic.PoolCounters(); c[2].Looped != 2 || c[1].Sent != 2 || c[1].Looped != 0 {
				t.Errorf("counters %+v %+v", c[1], c[2])
			}
		})
	}
}

// TestSpoofing: another's address or VLAN does not leave a pool that is checked.
func TestSpoofing(t *testing.T) {
	r := pooled(t, regs.MRQC_VMDQ64, regs.MTQC_VMDQ64, 1, 2)
	r.transmit(2)
	r.start()
	r.w(regs.PFVFSPOOF(0), 1<<1|1<<1<<regs.SPOOF_VLAN_SHIFT)
	own := tag(eth(mac(9), poolMAC(1), "own"), 101)
	for _, f := range [][]byte{tag(eth(mac(9), poolMAC(2), "another's"), 101), tag(eth(mac(9), poolMAC(1), "VLAN"), 102), own} {
		r.send(2, f, 0, 0)
	}
	if got := r.out(); !slices.Equal(got, own) {
		t.Errorf("on the wire %x", got)
	}
	if n := r.nic.PoolCounters()[1].Spoofed; n != 2 || r.r(regs.SSVPC) != 2 {
		t.Errorf("%d frames are counted as spoofed, want 2", n)
	}
}

// TestInsertedTag: VMVIR puts a tag in front of all that a pool sends; TXD.VLE into one frame.
func TestInsertedTag(t *testing.T) {
	r := pooled(t, regs.MRQC_VMDQ64, regs.MTQC_VMDQ64, 1, 2)
	r.transmit(2)
	r.transmit(4)
	r.start()
	f := eth(mac(9), poolMAC(1), "plain")
	r.w(regs.VMVIR(1), regs.VMVIR_VLANA_DEFAULT|101)
	r.send(2, f, 0, 0)
	if got := r.out(); !slices.Equal(got, tag(f, 101)) {
		t.Errorf("by VMVIR: %x", got)
	}
	r.descriptor(4, 102<<16|14<<9, regs.TXD_DTYP_CTXT|regs.TXD_DEXT, 0)
	r.send(4, f, regs.TXD_VLE, 0)
	if got := r.out(); !slices.Equal(got, tag(f, 102)) {
		t.Errorf("by a context: %x", got)
	}
}

// TestMirrors: each rule copies what it says to its pool, and nothing else.
func TestMirrors(t *testing.T) {
	const copies = 6 // the pool that gets them
	for _, c := range []struct {
		name                string
		rule                uint32
		poolFrame, outFrame bool // is a frame for pool 1, one to the wire copied?
	}{
		{"pools", regs.MRCTL_VPME, true, false},
		{"from the wire", regs.MRCTL_UPME, true, false},
		{"to the wire", regs.MRCTL_DPME, false, true},
		{"VLANs", regs.MRCTL_VLME, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := pooled(t, regs.MRQC_VMDQ64, regs.MTQC_VMDQ64, 1, 2)
			for _, p := range []int{1, 2, copies} {
				r.receive(2 * p)
			}
			r.transmit(2)
			r.w(regs.PFDTXGSWC, regs.PFDTXGSWC_LBE)
			r.w(regs.VMTXSW(0), 0xffffffff)
			r.w(regs.VMRVM(0), 1<<1)
			r.w(regs.VMRVLAN(0), 1<<0) // the first entry of VLVF: 101
			r.w(regs.MRCTL(0), c.rule|copies<<regs.MRCTL_MP_SHIFT)
			r.start()
			copied := slices.Contains(r.in(tag(eth(poolMAC(1), mac(9), "in"), 101)), 2*copies)
			if copied != c.poolFrame {
				t.Errorf("a frame for pool 1: copied %v", copied)
			}
			r.send(2, tag(eth(mac(9), poolMAC(1), "out"), 101), 0, 0)
			r.out()
			if copied := slices.Contains(r.filled(), 2*copies); copied != c.outFrame {
				t.Errorf("a frame to the wire: copied %v", copied)
			}
		})
	}
}
