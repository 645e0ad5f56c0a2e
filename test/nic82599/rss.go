package nic82599

import (
	"encoding/binary"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// rss is the Toeplitz hash of a frame and the RSS type of its write-back; type 0: none (7.1.2.8).
func (n *NIC) rss(f []byte, l layers) (hash, kind uint32) {
	if l.l3 == 0 {
		return 0, 0
	}
	addresses := f[l.l3+12 : l.l3+20]
	if l.ipv6 {
		addresses = f[l.l3+8 : l.l3+40]
	}
	input := append(make([]byte, 0, 36), addresses...)
	for _, c := range []struct {
		bit   uint32
		proto byte
		ipv6  bool
		kind  uint32
	}{
		{regs.MRQC_RSS_TCP4, 6, false, 1}, {regs.MRQC_RSS_UDP4, 17, false, 7}, {regs.MRQC_RSS_TCP6, 6, true, 3}, {regs.MRQC_RSS_UDP6, 17, true, 8},
		{regs.MRQC_RSS_IP4, 0, false, 2}, {regs.MRQC_RSS_IP6, 0, true, 5},
	} {
		if !n.has(regs.MRQC, c.bit) || c.ipv6 != l.ipv6 || c.proto != 0 && c.proto != l.proto {
			continue
		}
		if c.proto != 0 {
			input = append(input, f[l.l4:l.l4+4]...) // both ports
		}
		return n.toeplitz(input), c.kind
	}
	return 0, 0
}

func (n *NIC) toeplitz(input []byte) (hash uint32) {
	var key [40]byte
	for i := range 10 {
		binary.LittleEndian.PutUint32(key[4*i:], n.get(regs.RSSRK(i)))
	}
	window, next := binary.BigEndian.Uint32(key[:]), 32
	for _, b := range input {
		for bit := 7; bit >= 0; bit-- {
			if b>>bit&1 == 1 {
				hash ^= window
			}
			window = window<<1 | uint32(key[next/8%40]>>(7-next%8)&1)
			next++
		}
	}
	return hash
}
