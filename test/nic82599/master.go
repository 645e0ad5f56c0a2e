package nic82599

import "vhostkit/switchd/uplink/ixgbe/regs"

// drainLooks is how many looks at STATUS it takes, after the driver has disabled the master, until the card has nothing under way on the bus any more
// (5.2.5.3.2). So who looks once, or not at all, is noticed.
const drainLooks = 2

// writeMaster follows CTRL. A master that is enabled again is so at once.
func (n *NIC) writeMaster(ctrl uint32) {
	n.set(regs.CTRL, ctrl)
	if ctrl&regs.CTRL_GIO_DIS == 0 {
		n.masterLooks = 0
		n.set(regs.STATUS, n.get(regs.STATUS)|regs.STATUS_GIO)
	}
}

// lookAtMaster is a look at STATUS.
func (n *NIC) lookAtMaster() {
	if !n.has(regs.CTRL, regs.CTRL_GIO_DIS) {
		return
	}
	if n.masterLooks++; n.masterLooks >= drainLooks && !n.faults.GIOStuck {
		n.set(regs.STATUS, n.get(regs.STATUS)&^regs.STATUS_GIO)
	}
}

// checkReset is about a reset while something is under way: the card may hang with it. A driver that has waited has done what it can, and one reset
// right after another is what such a card needs (5.2.5.3.2).
func (n *NIC) checkReset() {
	if waited := n.has(regs.CTRL, regs.CTRL_GIO_DIS) && n.masterLooks >= drainLooks; !waited && !n.justReset {
		n.violate("CTRL.RST written while STATUS says that the PCIe master is enabled: set CTRL.GIO_DIS and wait (5.2.5.3.2)")
	}
}
