package nic82599

import (
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// ReadBAR reads a register. An offset outside reads as all ones, as on the bus.
func (n *NIC) ReadBAR(offset uint32) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.survive()
	if offset >= regs.BARSize {
		return 0xffffffff
	}
	offset = regs.Canonical(offset &^ 3)
	if value, done := n.readSpecial(offset); done {
		return value
	}
	value := n.get(offset)
	if r, _ := regs.Lookup(offset); r != nil {
		switch r.Mode {
		case regs.WO:
			return 0
		case regs.RC:
			n.set(offset, 0)
		}
	}
	return value
}

// readSpecial reads registers that are more than memory.
func (n *NIC) readSpecial(offset uint32) (value uint32, done bool) {
	switch offset {
	case regs.STATUS:
		n.lookAtMaster()
		value = n.get(regs.STATUS)
		if n.linkUp() {
			value |= regs.STATUS_LINK_UP
		}
		return value, true
	case regs.LINKS:
		return n.links(), true
	case regs.EEC:
		return n.eeprom.pins(n.get(regs.EEC)), true
	case regs.I2CCTL:
		return n.sfp.pins(n.get(regs.I2CCTL)), true
	case regs.SWSM: // reading takes the semaphore
		value = n.get(offset)
		n.set(offset, value|regs.SWSM_SMBI)
		return value, true
	case regs.EICR:
		value = n.get(offset)
		n.set(offset, 0)
		return value, true
	case regs.EICS:
		return n.get(regs.EICR), true
	}
	return 0, false
}

// WriteBAR writes a register.
func (n *NIC) WriteBAR(offset, value uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.survive()
	if offset >= regs.BARSize {
		n.violate("a write of %#x to %#x, outside the registers", value, offset)
		return
	}
	offset = regs.Canonical(offset &^ 3)
	r, i := regs.Lookup(offset)
	if r == nil {
		if n.config.Strict {
			n.violate("a write of %#x to %s, which the table does not know", value, regs.Name(offset))
		}
		n.set(offset, value)
		return
	}
	i += r.First
	n.undefined.remove(offset)
	n.justReset = n.justReset && offset == regs.CTRL
	if n.writeQueue(r, offset, i, value) || n.writeSpecial(offset, value) || n.writeInterrupt(r, offset, i, value) {
		return
	}
	switch r.Mode {
	case regs.RO, regs.RC, regs.WO:
		return
	case regs.RW1C:
		n.set(offset, n.get(offset)&^value)
		return
	}
	n.rules(offset, value)
	n.set(offset, n.get(offset)&^r.Writable|value&r.Writable)
}

// writeSpecial writes registers where writing does something at once.
func (n *NIC) writeSpecial(offset, value uint32) bool {
	switch offset {
	case regs.CTRL:
		if value&(regs.CTRL_RST|regs.CTRL_LRST) != 0 && !n.faults.HungReset {
			n.checkReset()
			n.reset() // of what was written with it nothing stays
			n.justReset = true
			return true
		}
		n.writeMaster(value)
	case regs.EEC:
		n.set(offset, n.eeprom.drive(n.get(offset), value))
	case regs.EERD:
		n.set(offset, n.eeprom.read(value))
	case regs.I2CCTL:
		n.set(offset, value&(regs.I2CCTL_CLK_OUT|regs.I2CCTL_DATA_OUT))
		n.sfp.drive(value&regs.I2CCTL_CLK_OUT != 0, value&regs.I2CCTL_DATA_OUT != 0, !n.faults.NoSFP)
	case regs.MSCA:
		n.set(offset, value&^regs.MSCA_MDI_COMMAND)
	case regs.AUTOC, regs.AUTOC2, regs.ESDP:
		n.writeLink(offset, value)
	case regs.RTTDCS:
		n.writeArbiter(value)
	case regs.FDIRCTRL:
		n.set(offset, value|regs.FDIRCTRL_INITDONE)
	case regs.FDIRCMD:
		n.set(offset, value&^3) // done at once
	case regs.SECRXCTRL:
		n.set(offset, value&3)
	default:
		return false
	}
	return true
}

// rules are about what may be written when.
func (n *NIC) rules(offset, value uint32) {
	switch {
	case offset == regs.MTQC && value != n.get(offset) && !n.has(regs.RTTDCS, regs.RTTDCS_ARBDIS):
		n.violate("MTQC changed to %#x without RTTDCS.ARBDIS (7.2.1.2.1)", value)
	case offset == regs.RXCTRL && value&regs.RXCTRL_RXEN != 0:
		if !n.has(regs.RXCTRL, regs.RXCTRL_RXEN) {
			n.checkTables(n.has(regs.VT_CTL, regs.VT_CTL_VT_EN))
		}
		if n.has(regs.HLREG0, regs.HLREG0_RXCRCSTR) != n.has(regs.RDRXCTL, regs.RDRXCTL_CRCSTRIP) {
			n.violate("RXCTRL.RXEN set while HLREG0.RXCRCSTRP and RDRXCTL.CRCSTRIP differ (8.2.3.8.8)")
		}
	case offset == regs.VT_CTL && value&regs.VT_CTL_VT_EN != 0 && !n.has(regs.VT_CTL, regs.VT_CTL_VT_EN) && n.has(regs.RXCTRL, regs.RXCTRL_RXEN):
		n.checkTables(true)
	case offset >= regs.RXPBSIZE(0) && offset <= regs.RXPBSIZE(7) && value != n.get(offset) && n.has(regs.RXCTRL, regs.RXCTRL_RXEN):
		n.violate("%s changed while RXCTRL.RXEN is set (8.2.3.8.9)", regs.Name(offset))
	}
}
