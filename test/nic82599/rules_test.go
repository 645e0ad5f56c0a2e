package nic82599

import (
	"slices"
	"strings"
	"testing"
	"time"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// wantViolation wants one, about that register.
func (r *rig) wantViolation(about string) {
	r.Helper()
	r.want++
	if v := r.nic.Violations(); len(v) != r.want || !strings.Contains(v[len(v)-1].Error(), about) {
		r.Errorf("%v, want one about %s", v, about)
	}
}

func (r *rig) wantNoViolation(what string) {
	r.Helper()
	if v := r.nic.Violations(); len(v) != r.want {
		r.Errorf("%s: %v", what, v)
		r.want = len(v)
	}
}

// TestUndefinedTables: a reset leaves junk in the tables, and who receives without having written all of it breaks a rule.
func TestUndefinedTables(t *testing.T) {
	for _, u := range undefinedTables {
		t.Run(u.name, func(t *testing.T) {
			r := newRig(t, Config{})
			last := u.count - 1
			at := u.register(last)
			if r.r(at) == 0 {
				t.Errorf("%s is 0 after a reset", regs.Name(at))
			}
			r.bringUp()
			r.start()
			r.wantNoViolation("all written")
			r.stopMaster()
			r.w(regs.CTRL, regs.CTRL_RST)
			if r.r(at) == 0 {
				t.Errorf("%s is 0 after a second reset", regs.Name(at))
			}
			r.clearTables(u.name)
			r.w(regs.RDRXCTL, regs.RDRXCTL_CRCSTRIP)
			r.start()
			if u.pools {
				r.wantNoViolation("without pools it does not matter")
				r.w(regs.VT_CTL, regs.VT_CTL_VT_EN)
			}
			r.wantViolation(regs.Name(at))
		})
	}
}

// TestUndefinedAddresses: those that are not the EEPROM's are junk, but not valid; its own is.
func TestUndefinedAddresses(t *testing.T) {
	r := newRig(t, Config{MAC: mac(9)})
	for i := range regs.RARs {
		if valid := r.r(regs.RAH(i))&regs.RAH_AV != 0; valid != (i == 0) {
			t.Errorf("RAH[%d] is %#x", i, r.r(regs.RAH(i)))
		}
	}
	if r.r(regs.MPSAR_LO(0)) != 1 || r.r(regs.MPSAR_HI(0)) != 0 {
		t.Error("the EEPROM's address is not pool 0's")
	}
}

// TestUndefinedStatistics: counters say something after a reset until they are read.
func TestUndefinedStatistics(t *testing.T) {
	r := newRig(t, Config{})
	for _, row := range regs.Table() {
		for i := range row.Count {
			if at := row.Offset + uint32(i)*row.Stride; row.Mode == regs.RC && (r.r(at) == 0 || r.r(at) != 0) {
				t.Errorf("%s is 0 after a reset, or not 0 after reading", regs.Name(at))
			}
		}
	}
}

// TestReset: the master is stopped first, and waited for.
func TestReset(t *testing.T) {
	for _, bit := range []uint32{regs.CTRL_RST, regs.CTRL_LRST} {
		r := newRig(t, Config{})
		r.w(regs.CTRL, bit)
		r.wantViolation("CTRL.RST")
		r.w(regs.CTRL, 0)
		r.w(regs.CTRL, bit)
		r.wantNoViolation("two resets, one after the other")
		r.w(regs.FCTRL, 0)
		r.w(regs.CTRL, regs.CTRL_GIO_DIS)
		r.w(regs.CTRL, bit|regs.CTRL_GIO_DIS)
		r.wantViolation("CTRL.RST")
		r.w(regs.FCTRL, 0)
		r.w(regs.CTRL, regs.CTRL_GIO_DIS)
		if r.r(regs.STATUS)&regs.STATUS_GIO == 0 {
			t.Error("nothing was under way: a driver that looks once is not noticed")
		}
		r.w(regs.CTRL, bit|regs.CTRL_GIO_DIS)
		r.wantViolation("CTRL.RST")
		r.w(regs.FCTRL, 0)
		r.stopMaster()
		r.w(regs.CTRL, r.r(regs.CTRL)|bit)
		r.wantNoViolation("a reset as it should be")
		for range 2 { // each time anew: after the reset, and when it was enabled meanwhile
			r.w(regs.CTRL, regs.CTRL_GIO_DIS)
			if r.r(regs.STATUS)&regs.STATUS_GIO == 0 {
				t.Error("what is under way ends at once")
			}
			r.stopMaster()
			r.w(regs.CTRL, 0)
		}
		if got := r.nic.Resets(); got != 6 {
			t.Errorf("%d resets, want 6 with the first", got)
		}
	}
}

// TestMasterDisabled: from the moment it is disabled, the card reaches no memory.
func TestMasterDisabled(t *testing.T) {
	r := newRig(t, Config{})
	r.bringUp()
	r.transmit(0)
	r.w(regs.CTRL, regs.CTRL_GIO_DIS)
	r.send(0, eth(mac(1), mac(2), ""), 0, 0)
	r.wantViolation("CTRL.GIO_DIS")
}

// TestArbiter: what is queued while the arbiter is off breaks a rule, and leaves when it is on again.
func TestArbiter(t *testing.T) {
	r := newRig(t, Config{})
	r.bringUp()
	r.transmit(0)
	r.w(regs.RTTDCS, regs.RTTDCS_ARBDIS)
	r.w(regs.TDT(0), 0)
	r.wantNoViolation("a tail that stays")
	f := eth(mac(1), mac(2), "held")
	r.send(0, f, 0, 0)
	r.wantViolation("RTTDCS.ARBDIS")
	if len(r.wire.Out) != 0 {
		t.Error("it left without an arbiter")
	}
	r.w(regs.RTTDCS, 0)
	if got := r.out(); !slices.Equal(got, f) {
		t.Errorf("%x is on the wire", got)
	}
}

// TestArbiterAndWildTail: a tail that was outside of the ring before the queue was enabled keeps the card busy at no time.
func TestArbiterAndWildTail(t *testing.T) {
	r := newRig(t, Config{})
	r.bringUp()
	r.w(regs.TDT(0), 1000)
	r.wantViolation("TDT[0]")
	r.transmit(0)
	for range ringSize { // contexts all the way round
		r.descriptor(0, 0, regs.TXD_DTYP_CTXT|regs.TXD_DEXT, 0)
	}
	r.w(regs.RTTDCS, regs.RTTDCS_ARBDIS)
	limit := time.AfterFunc(5*time.Second, func() { panic("the card goes round and round") })
	r.w(regs.RTTDCS, 0)
	limit.Stop()
}

// TestReceiveControl: SRRCTL stays as it is while its queue is enabled, but for what is dropped, which drivers change with the link's flow control.
func TestReceiveControl(t *testing.T) {
	for _, q := range []int{3, 100} {
		r := newRig(t, Config{})
		r.bringUp()
		r.receive(q)
		r.w(regs.SRRCTL(q), r.r(regs.SRRCTL(q)))
		r.w(regs.SRRCTL(q), r.r(regs.SRRCTL(q))&^regs.SRRCTL_DROP_EN)
		r.wantNoViolation("DROP_EN")
		r.w(regs.SRRCTL(q), r.r(regs.SRRCTL(q))+1)
		r.wantViolation(regs.Name(regs.SRRCTL(q)))
		r.w(regs.RXDCTL(q), 0)
		r.w(regs.SRRCTL(q), 0x402)
		r.wantNoViolation("a queue that is not enabled")
	}
}

// TestCheckContext: with pools each frame needs a context.
func TestCheckContext(t *testing.T) {
	const plain = regs.TXD_DTYP_DATA | regs.TXD_EOP | regs.TXD_IFCS | regs.TXD_DEXT | regs.TXD_RS
	r := pooled(t, regs.MRQC_VMDQ64, regs.MTQC_VMDQ64, 1)
	r.transmit(2)
	r.send(2, eth(mac(1), mac(2), ""), 0, 0)
	r.wantNoViolation("with TXD.CC")
	data := r.tx[2].data.IOVA
	r.descriptor(2, data, 60|plain, 60<<regs.TXD_PAYLEN_SHIFT)
	r.w(regs.TDT(2), uint32(r.tx[2].next))
	r.wantViolation("TDBAL[2]: TXD.CC")
	r.transmit(4)
	r.tx[4].next = 0 // no context
	r.descriptor(4, data, 60|plain, 60<<regs.TXD_PAYLEN_SHIFT|regs.TXD_CC)
	r.w(regs.TDT(4), 1)
	r.wantViolation("TDBAL[4]: offloads without a context")
}

// TestWriteBackOrder: a transmit queue's write-backs may not overtake others.
func TestWriteBackOrder(t *testing.T) {
	r := newRig(t, Config{})
	r.bringUp()
	if r.r(regs.DCA_TXCTRL(5))&regs.DCA_TXCTRL_WRO == 0 || r.r(regs.DCA_RXCTRL(5))&regs.DCA_RXCTRL_RO_WR == 0 {
		t.Errorf("after a reset DCA_TXCTRL[5] is %#x, DCA_RXCTRL[5] %#x", r.r(regs.DCA_TXCTRL(5)), r.r(regs.DCA_RXCTRL(5)))
	}
	r.w(regs.TDLEN(5), 128)
	r.w(regs.TXDCTL(5), regs.TXDCTL_ENABLE)
	r.wantViolation("DCA_TXCTRL[5]")
}
