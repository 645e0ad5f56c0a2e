package nic82599

import "vhostkit/switchd/uplink/ixgbe/regs"

// undefinedTable is a table that a reset leaves with anything in it: drivers must write all of it before they receive (4.6.7).
type undefinedTable struct {
	name     string
	register func(int) uint32
	first    int // the entries before it are the EEPROM's
	count    int
	pools    bool // it is looked at only with VMDq
}

var undefinedTables = []undefinedTable{
	{"MTA", regs.MTA, 0, 128, false}, {"PFUTA", regs.PFUTA, 0, 128, false}, {"VFTA", regs.VFTA, 0, 128, false},
	{"RAL", regs.RAL, 1, regs.RARs, false}, {"RAH", regs.RAH, 1, regs.RARs, false},
	{"MPSAR_LO", regs.MPSAR_LO, 1, regs.RARs, true}, {"MPSAR_HI", regs.MPSAR_HI, 1, regs.RARs, true},
	{"VLVF", regs.VLVF, 0, regs.VLVFs, true}, {"VLVFB", regs.VLVFB, 0, 2 * regs.VLVFs, true},
}

// wordSet is a set of registers by their offsets.
type wordSet [regs.BARSize / 4 / 64]uint64

func (s *wordSet) add(offset uint32)      { s[offset/256] |= 1 << (offset / 4 % 64) }
func (s *wordSet) remove(offset uint32)   { s[offset/256] &^= 1 << (offset / 4 % 64) }
func (s *wordSet) has(offset uint32) bool { return s[offset/256]>>(offset/4%64)&1 == 1 }

// junk is what a register may hold that nobody has written: always the same, and never 0, so that nobody takes it for cleared.
func junk(offset uint32) uint32 { return offset*0x9E3779B1 ^ 0x5EED5EED | 1 }

// poison fills what a reset leaves undefined: the tables, and the counters, which drivers clear by reading (4.6.5). An address that is not the
// EEPROM's is not valid, which is defined (8.2.3.7.9).
func (n *NIC) poison() {
	for _, t := range undefinedTables {
		for i := t.first; i < t.count; i++ {
			at := t.register(i)
			r, _ := regs.Lookup(at)
			v := junk(at) & r.Writable
			if t.name == "RAH" {
				v &^= regs.RAH_AV
			}
			n.set(at, v)
			n.undefined.add(at)
		}
	}
	for _, r := range regs.Table() {
		if r.Mode != regs.RC {
			continue
		}
		for i := range r.Count {
			at := r.Offset + uint32(i)*r.Stride
			n.set(at, junk(at)&0xf) // few enough for those of four bits
		}
	}
}

// checkTables is about a card that starts to receive, or to have pools while it receives.
func (n *NIC) checkTables(pools bool) {
	for _, t := range undefinedTables {
		if t.pools && !pools {
			continue
		}
		left, first := 0, 0
		for i := t.count - 1; i >= t.first; i-- {
			if n.undefined.has(t.register(i)) {
				left, first = left+1, i
			}
		}
		if left > 0 {
			n.violate("RXCTRL.RXEN set while %s and %d more of them are as the reset has left them, undefined (4.6.7)", regs.Name(t.register(first)), left-1)
		}
	}
}
