package regs

import "testing"

func TestNames(t *testing.T) {
	for offset, want := range map[uint32]string{
		CTRL: "CTRL", RXDCTL(3): "RXDCTL[3]", RXDCTL(64): "RXDCTL[64]", RXDCTL(127): "RXDCTL[127]", TXDCTL(127): "TXDCTL[127]", MPSAR_HI(5): "MPSAR_HI[5]",
		VLVFB(3): "VLVFB[3]", EITR(30): "EITR[30]", QPRC(2): "QPRC[2]", 0x5408: "RAL[1]", 0x7fff0: "0x7fff0", EICS_EX(1): "EICS_EX[1]", FDIRCMD: "FDIRCMD",
	} {
		if got := Name(offset); got != want {
			t.Errorf("%#x is called %s, want %s", offset, got, want)
		}
	}
}

func TestCanonical(t *testing.T) {
	for offset, want := range map[uint32]uint32{
		0x5400: RAL(0), 0x5404: RAH(0), 0x5418: RAL(3), 0x5818: MRQC, 0x2104: SRRCTL(1), 0x220C: DCA_RXCTRL(3), 0x5480: PSRTYPE(0), 0x5C04: RETA(1), 0x5C80: RSSRK(0),
		0x4: CTRL, CTRL: CTRL, 0x77777: 0x77777, RDT(100): RDT(100),
	} {
		if got := Canonical(offset); got != want {
			t.Errorf("%#x stands for %#x, want %#x", offset, got, want)
		}
	}
}

// Rows do not overlap but where one is a name for part of a group, and none leaves the BAR.
func TestTable(t *testing.T) {
	seen := map[uint32]string{}
	for _, r := range Table() {
		if r.Section == "" || r.Count < 1 || r.Stride < 4 {
			t.Errorf("%+v", r)
		}
		for n := range r.Count {
			at := r.Offset + uint32(n)*r.Stride
			if at%4 != 0 || at >= BARSize {
				t.Errorf("%s at %#x", r.Name, at)
			}
			if other, ok := seen[at]; ok && !(other == "FDIR" || r.Name == "FDIR") {
				t.Errorf("%s and %s are both at %#x", r.Name, other, at)
			}
			seen[at] = r.Name
		}
	}
}
