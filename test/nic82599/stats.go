package nic82599

import "vhostkit/switchd/uplink/ixgbe/regs"

// count adds to a counter, which stays at its highest value as the card's do.
func (n *NIC) count(register uint32, by uint32) {
	if v := n.get(register); v+by >= v {
		n.set(register, v+by)
	} else {
		n.set(register, 0xffffffff)
	}
}

// addPair adds to a counter of 36 bits in two registers.
func (n *NIC) addPair(low, high uint32, by uint64) {
	v := uint64(n.get(low)) | uint64(n.get(high)&0xf)<<32
	v += by
	n.set(low, uint32(v))
	n.set(high, uint32(v>>32)&0xf)
}

// classes are the registers that count frames by size, FCS included.
func class(length int, registers [6]uint32) uint32 {
	for i, limit := range []int{64, 127, 255, 511, 1023} {
		if length <= limit {
			return registers[i]
		}
	}
	return registers[5]
}

// countReceived counts all that comes from the wire.
func (n *NIC) countReceived(f []byte) {
	n.count(regs.TPR, 1)
	n.addPair(regs.TORL, regs.TORH, uint64(len(f)+4))
}

// countGood counts what the filters have admitted.
func (n *NIC) countGood(f []byte) {
	length := len(f) + 4
	n.count(regs.GPRC, 1)
	n.addPair(regs.GORCL, regs.GORCH, uint64(length))
	n.count(class(length, [6]uint32{regs.PRC64, regs.PRC127, regs.PRC255, regs.PRC511, regs.PRC1023, regs.PRC1522}), 1)
	switch {
	case broadcast(f):
		n.count(regs.BPRC, 1)
	case multicast(f):
		n.count(regs.MPRC, 1)
	}
}

func (n *NIC) countSent(f []byte) {
	length := max(len(f), 60) + 4
	n.count(regs.GPTC, 1)
	n.count(regs.TPT, 1)
	n.addPair(regs.GOTCL, regs.GOTCH, uint64(length))
	n.count(class(length, [6]uint32{regs.PTC64, regs.PTC127, regs.PTC255, regs.PTC511, regs.PTC1023, regs.PTC1522}), 1)
	switch {
	case broadcast(f):
		n.count(regs.BPTC, 1)
	case multicast(f):
		n.count(regs.MPTC, 1)
	}
}

// statSet is the counter set that RQSMR gives a receive queue; txStatSet that of TQSM (8.2.3.23.71).
func (n *NIC) statSet(q int) int   { return int(n.get(regs.RQSMR(q/4))>>(8*(q%4))) & 0xf }
func (n *NIC) txStatSet(q int) int { return int(n.get(regs.TQSM(q/4))>>(8*(q%4))) & 0xf }

// countQueue adds to a per-queue counter whose first register is given; they lie 0x40 apart.
func (n *NIC) countQueue(first uint32, q int, by uint32) {
	n.count(first+0x40*uint32(n.statSet(q)), by)
}
