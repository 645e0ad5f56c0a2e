package nic82599

import "vhostkit/switchd/uplink/ixgbe/regs"

// interrupts is the state of the MSI-X vectors (7.3.4).
type interrupts struct {
	pending uint64 // queue vectors with a cause that has not been signalled
}

// Causes that are not queues' are EICR's bits 16 and up.
const otherCauses = 0xffff0000

// writeInterrupt writes registers of the interrupt block.
func (n *NIC) writeInterrupt(r *regs.Register, offset uint32, i int, value uint32) bool {
	switch r.Name {
	case "EICS":
		n.raise(uint64(value & 0xffff))
		n.cause(value & otherCauses)
	case "EIMS":
		n.set(regs.EIMS, n.get(regs.EIMS)|value)
		n.set(regs.EIMS_EX(0), n.get(regs.EIMS_EX(0))|value&0xffff)
	case "EIMC":
		n.set(regs.EIMS, n.get(regs.EIMS)&^value)
		n.set(regs.EIMS_EX(0), n.get(regs.EIMS_EX(0))&^(value&0xffff))
	case "EICS_EX":
		n.raise(uint64(value) << (32 * i))
	case "EIMS_EX":
		n.set(offset, n.get(offset)|value)
	case "EIMC_EX":
		n.set(regs.EIMS_EX(i), n.get(regs.EIMS_EX(i))&^value)
	default:
		return false
	}
	n.signal()
	return true
}

// cause notes causes that are not queues'.
func (n *NIC) cause(bits uint32) {
	if bits == 0 {
		return
	}
	n.set(regs.EICR, n.get(regs.EICR)|bits)
	n.signalOther()
}

// signalOther signals the vector of IVAR_MISC, if a cause is there that is not masked.
func (n *NIC) signalOther() {
	if n.get(regs.EICR)&n.get(regs.EIMS)&otherCauses == 0 {
		return
	}
	if v := n.get(regs.IVAR_MISC) >> 8; v&regs.IVAR_VALID != 0 {
		n.interrupt(int(v & regs.IVAR_VECTOR))
	}
}

// queueCause notes that something has happened on a queue.
func (n *NIC) queueCause(queue int, transmit bool) {
	shift := 16 * (queue & 1)
	if transmit {
		shift += 8
	}
	v := n.get(regs.IVAR(queue/2)) >> shift
	if v&regs.IVAR_VALID != 0 {
		n.raise(1 << (v & regs.IVAR_VECTOR))
	}
}

func (n *NIC) raise(vectors uint64) {
	n.irq.pending |= vectors
	n.set(regs.EICR, n.get(regs.EICR)|uint32(vectors)&0xffff)
	n.signal()
}

// signal sends what is pending and not masked. A vector that was signalled masks itself where EIAM_EX says so, and its cause is cleared by the
// message itself.
func (n *NIC) signal() {
	enabled := uint64(n.get(regs.EIMS_EX(0))) | uint64(n.get(regs.EIMS_EX(1)))<<32
	due := n.irq.pending & enabled
	for v := 0; due != 0; v++ {
		bit := uint64(1) << v
		if due&bit == 0 {
			continue
		}
		due &^= bit
		n.irq.pending &^= bit
		n.set(regs.EICR, n.get(regs.EICR)&^(uint32(bit)&n.get(regs.EIAC)))
		if n.has(regs.GPIE, regs.GPIE_EIAME) {
			at := regs.EIMS_EX(v / 32)
			n.set(at, n.get(at)&^(uint32(1)<<(v%32)&n.get(regs.EIAM_EX(v/32))))
		}
		n.interrupt(v)
	}
	n.signalOther()
}
