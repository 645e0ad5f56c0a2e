package nic82599

import (
	"encoding/binary"
	"math/bits"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// txQueue is what the card remembers of a transmit queue between two tail writes.
type txQueue struct {
	contexts [2]offloads
	frame    []byte
	first    txDesc // of the frame being gathered
}

// offloads is a context descriptor (7.2.3.2.3).
type offloads struct {
	set                bool
	ipLen, macLen      int
	vlan               uint16
	tucmd              uint32
	l4Len, segmentSize int
}

// txDesc is a data descriptor's options.
type txDesc struct {
	command, status uint32
}

// loop is a frame on its way through the internal switch.
type loop struct {
	frame []byte
	pools uint64
}

// transmit takes a queue's descriptors from head to tail.
func (n *NIC) transmit(q int) {
	size := n.get(regs.TDLEN(q)) / regs.DescSize
	if n.get(regs.TDT(q)) >= size { // set when it could not be looked at: that was a violation already
		return
	}
	base := uint64(n.get(regs.TDBAL(q))) | uint64(n.get(regs.TDBAH(q)))<<32
	done := false
	for head := n.get(regs.TDH(q)); head != n.get(regs.TDT(q)); {
		at := base + uint64(head)*regs.DescSize
		var d [regs.DescSize]byte
		if !n.dmaRead(at, d[:], "TDBAL", q) {
			return
		}
		command, status := binary.LittleEndian.Uint32(d[8:]), binary.LittleEndian.Uint32(d[12:])
		if !n.descriptor(q, d[:], command, status) {
			return
		}
		head = (head + 1) % size
		if n.faults.HungTransmit {
			continue
		}
		n.set(regs.TDH(q), head)
		if command&regs.TXD_RS != 0 {
			done = true
			if n.get(regs.TDWBAL(q))&regs.TDWBAL_HEAD_WB == 0 {
				binary.LittleEndian.PutUint32(d[12:], status|regs.TXD_DD)
				n.dmaWrite(at+12, d[12:], "TDBAL", q)
			} else {
				var word [4]byte
				binary.LittleEndian.PutUint32(word[:], head)
				n.dmaWrite(uint64(n.get(regs.TDWBAL(q))&^3)|uint64(n.get(regs.TDWBAH(q)))<<32, word[:], "TDWBAL", q)
			}
		}
	}
	if done {
		n.queueCause(q, true)
	}
}

// descriptor takes one. It tells whether to go on.
func (n *NIC) descriptor(q int, d []byte, command, status uint32) bool {
	t := &n.tx[q]
	if command&regs.TXD_DEXT == 0 { // legacy (7.2.3.2.2)
		return n.gather(q, d, command, 0)
	}
	switch command & regs.TXD_DTYP {
	case regs.TXD_DTYP_CTXT:
		first, last := binary.LittleEndian.Uint32(d), binary.LittleEndian.Uint32(d[12:])
		t.contexts[last>>regs.TXD_IDX_SHIFT&1] = offloads{
			set: true, ipLen: int(first & 0x1ff), macLen: int(first >> 9 & 0x7f), vlan: uint16(first >> 16), tucmd: command,
			l4Len: int(last >> 8 & 0xff), segmentSize: int(last >> 16),
		}
		return true
	case regs.TXD_DTYP_DATA:
		return n.gather(q, d, command, status)
	}
	n.violate("TDBAL[%d]: a descriptor of type %d (7.2.3.2)", q, command&regs.TXD_DTYP>>20)
	return true
}

// gather adds a buffer to the frame, and sends it with its last one.
func (n *NIC) gather(q int, d []byte, command, status uint32) bool {
	t := &n.tx[q]
	if len(t.frame) == 0 {
		t.first = txDesc{command, status}
		if command&regs.TXD_DEXT != 0 && status&regs.TXD_CC == 0 && n.has(regs.MTQC, regs.MTQC_VT_ENA) {
			n.violate("TDBAL[%d]: TXD.CC is clear while MTQC.VT_ENA is set (7.2.3.2.4)", q)
		}
	}
	part := make([]byte, command&regs.TXD_LEN)
	if len(part) == 0 {
		n.violate("TDBAL[%d]: a buffer of no bytes (7.2.3.2.4)", q)
	}
	if !n.dmaRead(binary.LittleEndian.Uint64(d), part, "TDBAL", q) {
		return false
	}
	if t.frame = append(t.frame, part...); len(t.frame) > 256<<10 {
		n.violate("TDBAL[%d]: a frame of more than 256 KiB", q)
		t.frame = nil
	}
	if command&regs.TXD_EOP == 0 {
		return true
	}
	f := t.frame
	t.frame = nil
	if command&regs.TXD_IFCS == 0 && !n.has(regs.HLREG0, regs.HLREG0_TXCRCEN) {
		n.violate("TDBAL[%d]: a frame without FCS: neither IFCS nor HLREG0.TXCRCEN (7.2.3.2.4)", q)
	}
	if !n.faults.HungTransmit {
		n.offload(q, f, t.first)
	}
	return true
}

// offload does what a frame's descriptors ask for: segments, checksums, tag.
func (n *NIC) offload(q int, f []byte, d txDesc) {
	if d.command&regs.TXD_DEXT == 0 {
		n.leave(q, f)
		return
	}
	c := n.tx[q].contexts[d.status>>regs.TXD_IDX_SHIFT&1]
	uses := d.command&(regs.TXD_TSE|regs.TXD_VLE) != 0 || d.status&(regs.TXD_CC|regs.TXD_IXSM|regs.TXD_TXSM) != 0
	if uses && !c.set {
		n.violate("TDBAL[%d]: offloads without a context descriptor (7.2.3.2.3)", q)
		return
	}
	frames := [][]byte{f}
	if d.command&regs.TXD_TSE != 0 {
		if frames = segment(f, c); frames == nil {
			n.violate("TDBAL[%d]: segmentation with headers of %d+%d+%d bytes, segments of %d and a frame of %d (7.2.4)", q, c.macLen, c.ipLen, c.l4Len, c.segmentSize, len(f))
			return
		}
	}
	for _, f := range frames {
		if d.status&regs.TXD_IXSM != 0 {
			n.insertIP(q, f, c)
		}
		if d.status&regs.TXD_TXSM != 0 {
			n.insertL4(q, f, c)
		}
		if d.command&regs.TXD_VLE != 0 {
			f = tag(f, c.vlan)
		}
		n.leave(q, f)
	}
}

// segment cuts a TCP packet (7.2.4). The driver has put a pseudo header sum without the length into the checksum field.
func segment(f []byte, c offloads) (list [][]byte) {
	header, l3, l4 := c.macLen+c.ipLen+c.l4Len, c.macLen, c.macLen+c.ipLen
	if c.segmentSize == 0 || c.l4Len < 20 || c.ipLen < 20 || header >= len(f) || c.tucmd&regs.TUCMD_L4T != regs.TUCMD_L4T_TCP {
		return nil
	}
	payload := f[header:]
	for i, sent := 0, 0; sent < len(payload); i++ {
		part := payload[sent:min(len(payload), sent+c.segmentSize)]
		s := append(append(make([]byte, 0, header+len(part)), f[:header]...), part...)
		last := sent+len(part) == len(payload)
		if c.tucmd&regs.TUCMD_IPV4 != 0 {
			binary.BigEndian.PutUint16(s[l3+2:], uint16(len(s)-l3))
			binary.BigEndian.PutUint16(s[l3+4:], binary.BigEndian.Uint16(f[l3+4:])+uint16(i))
		} else {
			binary.BigEndian.PutUint16(s[l3+4:], uint16(len(s)-l4))
		}
		binary.BigEndian.PutUint32(s[l4+4:], binary.BigEndian.Uint32(f[l4+4:])+uint32(sent))
		const fin, psh, cwr = 1, 8, 0x80
		if !last {
			s[l4+13] &^= fin | psh
		}
		if i > 0 {
			s[l4+13] &^= cwr
		}
		sum := uint32(binary.BigEndian.Uint16(f[l4+16:])) + uint32(len(s)-l4)
		binary.BigEndian.PutUint16(s[l4+16:], fold(sum))
		list = append(list, s)
		sent += len(part)
	}
	return list
}

func (n *NIC) insertIP(q int, f []byte, c offloads) {
	if c.macLen+c.ipLen > len(f) || c.ipLen < 20 {
		n.violate("TDBAL[%d]: a header checksum of %d bytes at %d in a frame of %d (7.2.5)", q, c.ipLen, c.macLen, len(f))
		return
	}
	h := f[c.macLen : c.macLen+c.ipLen]
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(0, h)))
}

// insertL4 adds what follows to the sum that the driver has left in the checksum field.
func (n *NIC) insertL4(q int, f []byte, c offloads) {
	l4, at := c.macLen+c.ipLen, 0
	switch c.tucmd & regs.TUCMD_L4T {
	case regs.TUCMD_L4T_TCP:
		at = l4 + 16
	case regs.TUCMD_L4T_UDP:
		at = l4 + 6
	default:
		return // SCTP: not looked at by anybody here
	}
	end := len(f)
	if l := parse(f); l.l3 == c.macLen && l.end > l4 {
		end = l.end // what pads a short frame does not count
	}
	if at+2 > end {
		n.violate("TDBAL[%d]: a checksum at %d in a frame of %d (7.2.5)", q, at, len(f))
		return
	}
	result := ^fold(sum(0, f[l4:end]))
	if result == 0 && c.tucmd&regs.TUCMD_L4T == regs.TUCMD_L4T_UDP {
		result = 0xffff
	}
	binary.BigEndian.PutUint16(f[at:], result)
}

// leave sends a frame: the pool's own rules, then the internal switch, then the wire.
func (n *NIC) leave(q int, f []byte) {
	if len(f) < 14 {
		n.violate("TDBAL[%d]: a frame of %d bytes", q, len(f))
		return
	}
	pool := n.senderPool(q)
	c := &n.pools[pool]
	virtual := n.has(regs.MTQC, regs.MTQC_VT_ENA)
	if virtual && !n.bit(regs.VFTE(0), pool) || n.spoofed(pool, f) {
		c.Spoofed++
		n.count(regs.SSVPC, 1)
		return
	}
	if v := n.get(regs.VMVIR(pool)); v&regs.VMVIR_VLANA == regs.VMVIR_VLANA_DEFAULT {
		f = tag(f, uint16(v))
	}
	c.Sent++
	set := n.txStatSet(q)
	n.count(regs.QPTC(set), 1)
	n.addPair(regs.QBTC_L(set), regs.QBTC_H(set), uint64(len(f)))
	local := n.local(pool, virtual, f)
	if local != 0 {
		n.backlog = append(n.backlog, loop{f, local})
	}
	if local&^n.mirrors(f, local, false) != 0 && !multicast(f) {
		return // it stays inside
	}
	n.countSent(f)
	if n.config.Wire != nil && n.linkUp() {
		if len(f) < 60 && n.has(regs.HLREG0, regs.HLREG0_TXPADEN) {
			f = append(f[:len(f):len(f)], make([]byte, 60-len(f))...)
		}
		_ = n.config.Wire.Send(f)
	}
}

// spoofed compares a frame's source address and tag with those of its pool (7.10.3.9).
func (n *NIC) spoofed(pool int, f []byte) bool {
	rule := n.get(regs.PFVFSPOOF(pool/8)) >> (pool % 8)
	if rule&1 != 0 {
		source := append(append(make([]byte, 0, 12), f[6:12]...), f[6:12]...)
		if pools, _ := n.exact(source); pools>>pool&1 == 0 {
			return true
		}
	}
	if vlan, tagged := vid(f); rule>>regs.SPOOF_VLAN_SHIFT&1 != 0 && tagged {
		for i := range regs.VLVFs {
			if n.get(regs.VLVF(i)) == regs.VLVF_VIEN|uint32(vlan) && n.pair(regs.VLVFB(0), i)>>pool&1 == 1 {
				return false
			}
		}
		return true
	}
	return false
}

// local gives the pools of this card that a frame is for. The sender does not hear itself.
func (n *NIC) local(pool int, virtual bool, f []byte) uint64 {
	m := n.mode()
	if !m.virtual || !n.has(regs.VT_CTL, regs.VT_CTL_VT_EN) {
		return 0
	}
	pools := uint64(0)
	if n.has(regs.PFDTXGSWC, regs.PFDTXGSWC_LBE) && n.bit(regs.VMTXSW(0), pool) {
		pools = n.matched(f)
		if virtual {
			pools &^= 1 << pool
		}
		if pools != 0 && n.get(regs.FCRTH(0)) == 0 {
			n.violate("PFDTXGSWC.LBE: a frame is looped while FCRTH[0] is 0: the card drops it (8.2.3.27.9)")
			return 0
		}
	}
	return n.enabled(pools | n.mirrors(f, pools, false))
}

// deliverLooped takes what the internal switch holds to its pools.
func (n *NIC) deliverLooped() {
	for len(n.backlog) > 0 {
		l := n.backlog[0]
		n.backlog = n.backlog[1:]
		m := n.mode()
		if vlan, tagged := vid(l.frame); tagged && n.has(regs.VLNCTRL, regs.VLNCTRL_VFE) && !n.bit(regs.VFTA(0), int(vlan)) {
			continue
		}
		for p := l.pools; p != 0; p &= p - 1 {
			n.deliver(m, bits.TrailingZeros64(p), l.frame, true)
		}
	}
}
