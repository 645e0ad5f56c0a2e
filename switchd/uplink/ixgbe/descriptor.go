package ixgbe

import "vhostkit/switchd/uplink/ixgbe/regs"

// Ring sizes in descriptors. They are constants, so that an index masked with size-1 needs no bounds check.
const (
	rxSize = 512
	txSize = 512
	rxMask = rxSize - 1
	txMask = txSize - 1
)

// descriptor is an advanced descriptor (7.1.6, 7.2.3.2): two little-endian quad words, written by one side and written back by the other.
type descriptor struct{ lo, hi uint64 }

type (
	rxDescriptors [rxSize]descriptor
	txDescriptors [txSize]descriptor
)

const (
	rxDone     = regs.RXD_STAT_DD
	rxEnd      = regs.RXD_STAT_EOP
	rxTag      = regs.RXD_STAT_VP
	rxBroken   = regs.RXD_ERR_RXE
	rxGoodMask = rxEnd | rxBroken

	txDone = regs.TXD_DD << 32
	// txData is what every data descriptor says: FCS by the NIC, and look at the context, which a NIC that switches between
	// pools needs to find the headers (7.2.3.2.4, CC).
	txData     = regs.TXD_DTYP_DATA | regs.TXD_IFCS | regs.TXD_DEXT | regs.TXD_CC<<32
	txContext  = regs.TXD_DTYP_CTXT | regs.TXD_DEXT
	txPaylen   = 32 + regs.TXD_PAYLEN_SHIFT
	txMACLen   = 9  // in a context's first quad word
	txVLANTag  = 16 // there, too
	txReport   = 32 // a write-back is asked for every so many descriptors
	txMinFrame = 60 // bytes without FCS; shorter ones are padded with zeros
)
