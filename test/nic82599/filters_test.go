package nic82599

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// hashes are the places of an address that ends in ab:cd in MTA and PFUTA, by MCSTCTRL.MO: its bits 47:36, 46:35, 45:34 and 43:32 (8.2.3.7.3).
var hashes = [4]int{0xcda, 0x9b5, 0x36a, 0xdab}

var group, single = net.HardwareAddr{1, 0, 0x5e, 0, 0xab, 0xcd}, net.HardwareAddr{2, 0, 0x5e, 0, 0xab, 0xcd}

// mark sets one bit of a table of 4096.
func (r *rig) mark(table func(int) uint32, bit int) {
	r.w(table(bit/32), r.r(table(bit/32))|1<<(bit%32))
}

// hashCase is a frame for which a table has a bit, or not.
type hashCase struct {
	name  string
	table func(int) uint32
	bit   int
	mfe   uint32
	fctrl uint32
	vmolr uint32 // of pool 1; pool 2 has none
	to    net.HardwareAddr
	card  bool // the card takes it
	pool  bool // so does pool 1
}

// TestHashTables: MTA and PFUTA let in what they have a bit for, by the address bits that MCSTCTRL.MO chooses, without pools and into those that
// want it.
func TestHashTables(t *testing.T) {
	for mo, bit := range hashes {
		for _, c := range []hashCase{
			{"multicast hit", regs.MTA, bit, regs.MCSTCTRL_MFE, 0, regs.VMOLR_ROMPE, group, true, true},
			{"multicast miss", regs.MTA, bit ^ 1, regs.MCSTCTRL_MFE, 0, regs.VMOLR_ROMPE, group, false, false},
			{"multicast miss in another register", regs.MTA, bit ^ 0x800, regs.MCSTCTRL_MFE, 0, regs.VMOLR_ROMPE, group, false, false},
			{"by another offset", regs.MTA, hashes[(mo+1)%4], regs.MCSTCTRL_MFE, 0, regs.VMOLR_ROMPE, group, false, false},
			{"MFE off", regs.MTA, bit, 0, 0, regs.VMOLR_ROMPE, group, false, false},
			{"a pool without ROMPE", regs.MTA, bit, regs.MCSTCTRL_MFE, 0, regs.VMOLR_ROPE | regs.VMOLR_BAM, group, true, false},
			{"multicast miss on a card that takes all", regs.MTA, bit ^ 1, regs.MCSTCTRL_MFE, regs.FCTRL_MPE, regs.VMOLR_ROMPE, group, true, false},
			{"MFE off on a card that takes all", regs.MTA, bit, 0, regs.FCTRL_MPE, regs.VMOLR_ROMPE, group, true, false},
			{"multicast in the unicast table", regs.PFUTA, bit, regs.MCSTCTRL_MFE, 0, regs.VMOLR_ROMPE | regs.VMOLR_ROPE, group, false, false},
			{"unicast hit", regs.PFUTA, bit, 0, 0, regs.VMOLR_ROPE, single, true, true},
			{"unicast miss", regs.PFUTA, bit ^ 1, 0, 0, regs.VMOLR_ROPE, single, false, false},
			{"unicast miss on a card that takes all", regs.PFUTA, bit ^ 1, 0, regs.FCTRL_UPE, regs.VMOLR_ROPE, single, true, false},
			{"a pool without ROPE", regs.PFUTA, bit, 0, 0, regs.VMOLR_ROMPE | regs.VMOLR_MPE, single, true, false},
			{"unicast in the multicast table", regs.MTA, bit, regs.MCSTCTRL_MFE, 0, regs.VMOLR_ROMPE | regs.VMOLR_ROPE, single, false, false},
		} {
			t.Run(fmt.Sprintf("MO %d, %s", mo, c.name), func(t *testing.T) {
				c.withoutPools(t, uint32(mo))
				c.withPools(t, uint32(mo))
			})
		}
	}
}

func (c hashCase) withoutPools(t *testing.T, mo uint32) {
	r := newRig(t, Config{MAC: mac(1)})
	r.bringUp()
	r.receive(0)
	r.w(regs.MCSTCTRL, mo|c.mfe)
	r.w(regs.FCTRL, c.fctrl)
	r.mark(c.table, c.bit)
	r.start()
	if got := r.in(eth(c.to, mac(9), "x")); (got != nil) != c.card {
		t.Errorf("without pools: queues %v", got)
	}
}

func (c hashCase) withPools(t *testing.T, mo uint32) {
	r := pooled(t, regs.MRQC_VMDQ64, regs.MTQC_VMDQ64, 1, 2)
	r.receive(2)
	r.receive(4)
	r.w(regs.VLVFB(0), 1<<1|1<<2) // both in VLAN 101
	r.w(regs.VMOLR(1), c.vmolr)
	r.w(regs.VMOLR(2), 0)
	r.w(regs.MCSTCTRL, mo|c.mfe)
	r.w(regs.FCTRL, c.fctrl)
	r.mark(c.table, c.bit)
	r.start()
	want := []int(nil)
	if c.pool {
		want = []int{2}
	}
	if got := r.in(tag(eth(c.to, mac(9), "x"), 101)); !slices.Equal(got, want) {
		t.Errorf("with pools: queues %v, want %v", got, want)
	}
	if got := r.in(tag(eth(c.to, mac(9), "x"), 99)); got != nil {
		t.Errorf("in a VLAN of nobody: queues %v", got)
	}
}
