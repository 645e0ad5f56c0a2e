package nic82599

import "vhostkit/switchd/uplink/ixgbe/regs"

// resetLink starts the link with the EEPROM's settings: 10 gigabit over SFI. The laser is off, as where drivers power it down: they have to switch
// it on.
func (n *NIC) resetLink() {
	n.linkStale = false
	n.set(regs.ESDP, n.get(regs.ESDP)|regs.ESDP_SDP3)
}

// linkUp: the light is there, and the driver has chosen 10 gigabit over SFI, started the link after that, and switched the laser on (4.6.4.2).
func (n *NIC) linkUp() bool {
	return !n.faults.NoLink && !n.faults.NoSFP && !n.linkStale && !n.has(regs.ESDP, regs.ESDP_SDP3) &&
		n.get(regs.AUTOC)&regs.AUTOC_LMS == regs.AUTOC_LMS_10G && n.get(regs.AUTOC2)&regs.AUTOC2_10G == regs.AUTOC2_10G_SFI
}

// writeLink writes AUTOC, AUTOC2 or ESDP. What the first two say counts when the link is started again (8.2.3.22.19).
func (n *NIC) writeLink(offset, value uint32) {
	was, restart := n.linkUp(), false
	switch changed := value ^ n.get(offset); offset {
	case regs.AUTOC:
		restart = value&regs.AUTOC_RESTART != 0
		n.linkStale = !restart && (n.linkStale || changed&regs.AUTOC_LMS != 0)
		value &^= regs.AUTOC_RESTART
	case regs.AUTOC2:
		n.linkStale = n.linkStale || changed&regs.AUTOC2_10G != 0
	}
	n.set(offset, value)
	if up := n.linkUp(); up != was || up && restart {
		n.cause(regs.EICR_LSC)
	}
}

func (n *NIC) links() uint32 {
	if !n.linkUp() {
		return 0
	}
	return regs.LINKS_UP | regs.LINKS_SPEED_10G | regs.LINKS_KX_AN_COMP
}
