package nic82599

import (
	"testing"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// TestLink: which settings of a link make one, and when.
func TestLink(t *testing.T) {
	const other, noSFI = 1 << regs.AUTOC_LMS_SHIFT, 1 << regs.AUTOC2_10G_SHIFT
	laser := func(r *rig) { r.w(regs.ESDP, 0) }
	restart := func(r *rig) { r.w(regs.AUTOC, r.r(regs.AUTOC)|regs.AUTOC_RESTART) }
	lms := func(v uint32) func(r *rig) {
		return func(r *rig) { r.w(regs.AUTOC, r.r(regs.AUTOC)&^regs.AUTOC_LMS|v) }
	}
	serial := func(v uint32) func(r *rig) {
		return func(r *rig) { r.w(regs.AUTOC2, r.r(regs.AUTOC2)&^regs.AUTOC2_10G|v) }
	}
	reset := func(r *rig) { r.stopMaster(); r.w(regs.CTRL, regs.CTRL_RST) }
	for _, c := range []struct {
		name string
		do   []func(r *rig)
		up   bool
	}{
		{"after a reset the laser is off", nil, false},
		{"the laser", []func(r *rig){laser}, true},
		{"the laser on and off", []func(r *rig){laser, func(r *rig) { r.w(regs.ESDP, regs.ESDP_SDP3) }}, false},
		{"the laser after all else", []func(r *rig){lms(other), lms(regs.AUTOC_LMS_10G), restart, laser}, true},
		{"another mode, not started", []func(r *rig){laser, lms(other)}, false},
		{"another mode", []func(r *rig){laser, lms(other), restart}, false},
		{"another mode and back, not started", []func(r *rig){laser, lms(other), restart, lms(regs.AUTOC_LMS_10G)}, false},
		{"another mode and back", []func(r *rig){laser, lms(other), lms(regs.AUTOC_LMS_10G), restart}, true},
		{"started with the right mode at once", []func(r *rig){laser, lms(other), lms(regs.AUTOC_LMS_10G | regs.AUTOC_RESTART)}, true},
		{"no SFI", []func(r *rig){laser, serial(noSFI), restart}, false},
		{"no SFI and back, not started", []func(r *rig){laser, serial(noSFI), restart, serial(regs.AUTOC2_10G_SFI)}, false},
		{"no SFI and back", []func(r *rig){laser, serial(noSFI), serial(regs.AUTOC2_10G_SFI), restart}, true},
		{"a reset puts the EEPROM's settings back", []func(r *rig){lms(other), serial(noSFI), reset, laser}, true},
		{"a reset switches the laser off", []func(r *rig){laser, reset}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{MAC: mac(1)})
			r.bringUp()
			r.receive(0)
			r.transmit(0)
			r.start()
			r.w(regs.ESDP, regs.ESDP_SDP3)
			r.r(regs.EICR)
			for _, do := range c.do {
				do(r)
			}
			if up := r.r(regs.LINKS)&regs.LINKS_UP != 0; up != c.up || r.r(regs.STATUS)&regs.STATUS_LINK_UP != 0 != c.up {
				t.Errorf("LINKS %#x, STATUS %#x", r.r(regs.LINKS), r.r(regs.STATUS))
			}
			if c.up && r.r(regs.EICR)&regs.EICR_LSC == 0 {
				t.Error("EICR does not tell that there is a link")
			}
			if c.name == "a reset puts the EEPROM's settings back" || c.name == "a reset switches the laser off" {
				return // there are no queues any more
			}
			r.nic.Arrive(eth(mac(1), mac(2), "in"))
			if f, _, _ := r.got(0); f != nil != c.up {
				t.Errorf("received %x", f)
			}
			r.send(0, eth(mac(2), mac(1), "out"), 0, 0)
			if len(r.wire.Out) != 0 != c.up {
				t.Errorf("%d frames are on the wire", len(r.wire.Out))
			}
		})
	}
}
