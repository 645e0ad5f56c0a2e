package ixgbe

import (
	"testing"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// TestWriteBackOrder: write-backs of descriptors overtake nothing. The bits are set after a reset, and nobody but this test misses the first one:
// other drivers leave it, so that it is no rule of the model.
func TestWriteBackOrder(t *testing.T) {
	r := newRig(t, Config{Loopback: true})
	r.add(3)
	r.registers(map[string]uint32{"DCA_RXCTRL[6]": 0, "DCA_TXCTRL[6]": 0})
	if s := r.model.Snapshot(); s["DCA_RXCTRL[8]"]&regs.DCA_RXCTRL_RO_WR == 0 || s["DCA_TXCTRL[8]"]&regs.DCA_TXCTRL_WRO == 0 {
		t.Errorf("queues that are not in use have DCA_RXCTRL %#x, DCA_TXCTRL %#x: the model's reset does not set the bits", s["DCA_RXCTRL[8]"], s["DCA_TXCTRL[8]"])
	}
}
