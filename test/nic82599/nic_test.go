package nic82599

import (
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

func TestResetAndEEPROM(t *testing.T) {
	r := newRig(t, Config{MAC: mac(9)})
	r.w(regs.FCTRL, 0x700)
	r.stopMaster()
	r.w(regs.CTRL, r.r(regs.CTRL)|regs.CTRL_RST)
	if r.r(regs.CTRL)&regs.CTRL_RST != 0 || r.r(regs.FCTRL) != 0 {
		t.Errorf("after a reset CTRL is %#x and FCTRL %#x", r.r(regs.CTRL), r.r(regs.FCTRL))
	}
	if low, high := r.r(0x5400), r.r(0x5404); low != 0x00000002 || high != regs.RAH_AV|0x0900 {
		t.Errorf("address %#x %#x", low, high)
	}
	sum := uint16(0)
	for i := range uint32(0x40) {
		r.w(regs.EERD, i<<2|regs.EERD_START)
		word := r.r(regs.EERD)
		if word&regs.EERD_DONE == 0 {
			t.Fatalf("EERD %#x", word)
		}
		if sum += uint16(word >> 16); uint16(word>>16) != r.spi(i) {
			t.Errorf("word %#x is %#x by EERD and %#x by the pins", i, word>>16, r.spi(i))
		}
	}
	if sum != eepromSum {
		t.Errorf("the EEPROM's words add up to %#x", sum)
	}
	if r.r(regs.STATUS)&regs.STATUS_GIO == 0 {
		t.Error("the master is disabled after a reset")
	}
	r.stopMaster()
	r.w(regs.CTRL, 0)
	if r.r(regs.STATUS)&regs.STATUS_GIO == 0 {
		t.Error("the master does not start again")
	}
	if r.r(regs.SWSM)&regs.SWSM_SMBI != 0 || r.r(regs.SWSM)&regs.SWSM_SMBI == 0 {
		t.Error("the semaphore is not taken by reading it")
	}
}

// spi reads a word by the pins, as DPDK does.
func (r *rig) spi(word uint32) (value uint16) {
	eec := r.r(regs.EEC)&^(regs.EEC_CS|regs.EEC_SK) | regs.EEC_REQ
	r.w(regs.EEC, eec|regs.EEC_CS)
	if r.r(regs.EEC)&regs.EEC_GNT == 0 {
		r.Fatal("the EEPROM is not granted")
	}
	r.w(regs.EEC, eec)
	clock := func(out bool) bool {
		pins := eec
		if out {
			pins |= regs.EEC_DI
		}
		r.w(regs.EEC, pins)
		r.w(regs.EEC, pins|regs.EEC_SK)
		in := r.r(regs.EEC)&regs.EEC_DO != 0
		r.w(regs.EEC, pins)
		return in
	}
	for bit := 23; bit >= 0; bit-- {
		clock((spiRead<<16|word*2)>>bit&1 == 1)
	}
	for range 16 {
		value <<= 1
		if clock(false) {
			value |= 1
		}
	}
	r.w(regs.EEC, eec|regs.EEC_CS)
	return value>>8 | value<<8
}

// i2c reads a byte of the module by the pins.
func (r *rig) i2c(address byte) (value byte, present bool) {
	set := func(clock, data bool) bool {
		pins := uint32(0)
		if clock {
			pins |= regs.I2CCTL_CLK_OUT
		}
		if data {
			pins |= regs.I2CCTL_DATA_OUT
		}
		r.w(regs.I2CCTL, pins)
		return r.r(regs.I2CCTL)&regs.I2CCTL_DATA_IN != 0
	}
	bit := func(data bool) bool {
		set(false, data)
		in := set(true, data)
		set(false, data)
		return in
	}
	start := func() { set(false, true); set(true, true); set(true, false); set(false, false) }
	put := func(b byte) bool {
		for i := 7; i >= 0; i-- {
			bit(b>>i&1 == 1)
		}
		return !bit(true)
	}
	start()
	if !put(0xa0) {
		return 0, false
	}
	present = put(address)
	start()
	present = put(0xa1) && present
	for range 8 {
		value <<= 1
		if bit(true) {
			value |= 1
		}
	}
	bit(true)
	set(false, false)
	set(true, false)
	set(true, true)
	return value, present
}

func TestModule(t *testing.T) {
	r := newRig(t, Config{})
	for address, want := range map[byte]byte{0: 3, 3: 0x10, 37: 0, 38: 0x1b, 39: 0x21, 40: '1'} {
		if got, present := r.i2c(address); got != want || !present {
			t.Errorf("byte %d of the module is %#x, want %#x; acknowledged: %v", address, got, want, present)
		}
	}
	r.nic.SetFaults(Faults{NoSFP: true})
	if _, present := r.i2c(0); present {
		t.Error("an empty cage acknowledges")
	}
	if r.r(regs.LINKS)&regs.LINKS_UP != 0 {
		t.Error("a link without a module")
	}
}

func TestBothWays(t *testing.T) {
	r := newRig(t, Config{MAC: mac(1)})
	r.bringUp()
	r.receive(0)
	r.transmit(0)
	r.start()
	out := eth(mac(2), mac(1), "hello")
	at := r.send(0, out, 0, 0)
	if got := r.out(); !slices.Equal(got, out) {
		t.Errorf("sent %x, on the wire %x", out, got)
	}
	if binary.LittleEndian.Uint32(r.mem(r.tx[0].desc)[at+12:])&regs.TXD_DD == 0 || r.r(regs.TDH(0)) != 1 {
		t.Error("the descriptor was not written back")
	}
	in := udp(mac(1), mac(2), 100)
	bad := slices.Clone(in)
	bad[60] ^= 1
	for _, f := range [][]byte{in, bad, eth(mac(7), mac(2), "for others"), eth(everybody, mac(2), "for all")} {
		r.nic.Arrive(f)
	}
	f, types, status := r.got(0)
	if !slices.Equal(f, in) || status&(regs.RXD_STAT_EOP|regs.RXD_STAT_L4CS|regs.RXD_STAT_IPCS|regs.RXD_ERR_TCPE|regs.RXD_ERR_IPE) != regs.RXD_STAT_EOP|regs.RXD_STAT_L4CS|regs.RXD_STAT_IPCS {
		t.Errorf("received %x with status %#x", f, status)
	}
	if types&(regs.RXD_TYPE_IPV4|regs.RXD_TYPE_UDP) != regs.RXD_TYPE_IPV4|regs.RXD_TYPE_UDP {
		t.Errorf("packet type %#x", types)
	}
	if _, _, status = r.got(0); status&regs.RXD_ERR_TCPE == 0 {
		t.Errorf("a wrong checksum has the status %#x", status)
	}
	if f, _, _ = r.got(0); f == nil || f[0] != 0xff {
		t.Errorf("after that came %x, want the broadcast", f)
	}
	for _, c := range []struct {
		register, want uint32
	}{{regs.GPTC, 1}, {regs.GPRC, 3}, {regs.TPR, 4}, {regs.BPRC, 1}, {regs.PTC64, 1}, {regs.QPRC(0), 3}, {regs.QPTC(0), 1}, {regs.XEC, 1}, {regs.GORCL, uint32(2*len(in) + 8 + 64)}} {
		if got := r.r(c.register); got != c.want {
			t.Errorf("%s is %d, want %d", regs.Name(c.register), got, c.want)
		}
		if r.r(c.register) != 0 {
			t.Errorf("%s is not cleared by reading", regs.Name(c.register))
		}
	}
}

func TestOffloads(t *testing.T) {
	r := newRig(t, Config{MAC: mac(1)})
	r.bringUp()
	r.transmit(0)
	want := udp(mac(2), mac(1), 64)
	f := slices.Clone(want)
	f[24], f[25] = 0, 0
	l := parse(want)
	binary.BigEndian.PutUint16(f[40:], fold(l.pseudo(want))) // what drivers leave there
	g := r.tx[0]
	r.descriptor(0, 14<<9|20|uint64(1005)<<16, regs.TXD_DTYP_CTXT|regs.TXD_DEXT|regs.TUCMD_IPV4|regs.TUCMD_L4T_UDP, 0)
	r.send(0, f, regs.TXD_VLE, regs.TXD_IXSM|regs.TXD_TXSM|regs.TXD_CC)
	rest, tci, ok := untag(r.out())
	if !ok || tci != 1005 || !slices.Equal(rest, want) {
		t.Errorf("tag %v %d, frame\n%x, want\n%x", ok, tci, rest, want)
	}
	// Head write-back instead of DD.
	head := r.dma(64)
	r.w(regs.TDWBAL(0), uint32(head.IOVA)|regs.TDWBAL_HEAD_WB)
	r.send(0, want, 0, 0)
	if got := binary.LittleEndian.Uint32(r.mem(head)); int(got) != g.next {
		t.Errorf("the head written back is %d, want %d", got, g.next)
	}
	r.out()
}

// tcp makes a packet of payload bytes as drivers leave it for segmentation: with a sum of the pseudo header without a length.
func tcp(to, from net.HardwareAddr, ipv6 bool, payload int) (f []byte, ipLen int) {
	f = append(append([]byte(nil), to...), from...)
	if ipv6 {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, byte((20+payload)>>8), byte(20+payload), 6, 64)
		for i := range 32 {
			f = append(f, byte(0x20+i)) // both addresses
		}
	} else {
		f = append(f, 0x08, 0x00, 0x45, 0, byte((40+payload)>>8), byte(40+payload), 0x12, 0xff, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	}
	ipLen = len(f) - ethHeader
	const ack, psh, fin = 0x10, 8, 1
	f = append(f, 0x03, 0xe8, 0x07, 0xd0, 0, 0x0f, 0x42, 0x40, 0, 0, 0, 7, 0x50, ack|psh|fin, 0x20, 0, 0, 0, 0, 0)
	for i := range payload {
		f = append(f, byte(i*7))
	}
	l := parse(f)
	l.end = l.l4
	binary.BigEndian.PutUint16(f[l.l4+16:], fold(l.pseudo(f)))
	return f, ipLen
}

// TestSegmentation: a TCP packet leaves in segments that are whole packets, over IPv4 and IPv6.
func TestSegmentation(t *testing.T) {
	const payload, segment, sequence, fin, psh = 1800, 700, 1e6, 1, 8
	for _, c := range []struct {
		name    string
		ipv6    bool
		command uint64
		status  uint32
	}{
		{"IPv4", false, regs.TUCMD_IPV4, regs.TXD_IXSM},
		{"IPv6", true, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{MAC: mac(1)})
			r.bringUp()
			r.transmit(0)
			f, ipLen := tcp(mac(2), mac(1), c.ipv6, payload)
			l4 := ethHeader + ipLen
			r.descriptor(0, uint64(ethHeader<<9|ipLen), uint32(regs.TXD_DTYP_CTXT|regs.TXD_DEXT|c.command|regs.TUCMD_L4T_TCP), 20<<8|segment<<16)
			r.send(0, f, regs.TXD_TSE, c.status|regs.TXD_TXSM)
			for i, length := range []int{700, 700, 400} {
				s := r.out()
				l := parse(s)
				last := i == 2
				if len(s) != l4+20+length || l.proto != 6 || l.ipv6 != c.ipv6 || l.end != len(s) || !c.ipv6 && !l.ipGood(s) || !l.l4Good(s) {
					t.Errorf("segment %d: %d bytes %x", i, len(s), s[:l4+20])
				}
				if binary.BigEndian.Uint32(s[l4+4:]) != uint32(sequence+i*segment) || !slices.Equal(s[l4+20:], f[l4+20+i*segment:][:length]) {
					t.Errorf("segment %d is not its part of the packet: %x", i, s[:l4+20])
				}
				if !c.ipv6 && binary.BigEndian.Uint16(s[18:]) != uint16(0x12ff+i) {
					t.Errorf("segment %d has the identification %x", i, s[18:20])
				}
				if ends := s[l4+13]&(fin|psh) == fin|psh; ends != last {
					t.Errorf("segment %d has the flags %#x", i, s[l4+13])
				}
			}
		})
	}
}

func TestInterrupts(t *testing.T) {
	r := newRig(t, Config{MAC: mac(1)})
	call, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	r.must(err)
	defer unix.Close(call)
	other, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	r.must(err)
	defer unix.Close(other)
	r.must(r.dev.Interrupt(3, call))
	r.must(r.dev.Interrupt(5, other))
	rang := func(fd int) bool {
		var b [8]byte
		n, _ := unix.Read(fd, b[:])
		return n == 8
	}
	r.bringUp()
	r.receive(0)
	r.start()
	r.w(regs.GPIE, regs.GPIE_MSIX|regs.GPIE_EIAME)
	r.w(regs.EIAM_EX(0), 0xffffffff)
	r.w(regs.EIAC, 0xffff)
	r.w(regs.IVAR(0), regs.IVAR_VALID|3)
	r.w(regs.IVAR_MISC, (regs.IVAR_VALID|5)<<8)
	frame := eth(mac(1), mac(2), "x")
	r.nic.Arrive(frame)
	if rang(call) {
		t.Error("a masked vector rang")
	}
	r.w(regs.EIMS_EX(0), 1<<3)
	if !rang(call) {
		t.Error("what was pending did not ring when it was unmasked")
	}
	r.nic.Arrive(frame)
	if rang(call) {
		t.Error("the vector did not mask itself")
	}
	r.w(regs.EIMS_EX(0), 1<<3)
	if !rang(call) {
		t.Error("no ring after the mask was taken away")
	}
	r.w(regs.EIMS, regs.EICR_LSC)
	r.nic.SetFaults(Faults{NoLink: true})
	if !rang(other) || r.r(regs.EICS)&regs.EICR_LSC == 0 || r.r(regs.LINKS)&regs.LINKS_UP != 0 {
		t.Error("a lost link is not told")
	}
	if r.r(regs.EICR)&regs.EICR_LSC == 0 || r.r(regs.EICR) != 0 {
		t.Error("reading EICR does not clear it")
	}
}

func TestViolations(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(r *rig)
		want string
	}{
		{"tail before enable", func(r *rig) { r.w(regs.RDT(3), 5) }, "RDT[3]"},
		{"transmit tail before enable", func(r *rig) { r.w(regs.TDT(2), 5) }, "TDT[2]"},
		{"a ring moved under way", func(r *rig) { r.bringUp(); r.receive(1); r.w(regs.RDLEN(1), 256) }, "RDLEN[1]"},
		{"MTQC under way", func(r *rig) { r.w(regs.MTQC, regs.MTQC_VMDQ64) }, "MTQC"},
		{"the FCS stripped by halves", func(r *rig) { r.clearTables(""); r.w(regs.RXCTRL, regs.RXCTRL_RXEN) }, "CRCSTRIP"},
		{"a ring of an odd size", func(r *rig) { r.w(regs.RDLEN(0), 0); r.w(regs.RXDCTL(0), regs.RXDCTL_ENABLE) }, "RDLEN[0]"},
		{"DMA to nowhere", func(r *rig) {
			r.bringUp()
			r.transmit(0)
			r.descriptor(0, 0xdead0000, 64|regs.TXD_DTYP_DATA|regs.TXD_EOP|regs.TXD_IFCS|regs.TXD_DEXT|regs.TXD_RS, 0)
			r.w(regs.TDT(0), 1)
		}, "TDBAL[0]: DMA of 64 bytes at 0xdead0000"},
		{"a transmit queue without DMATXCTL.TE", func(r *rig) {
			r.w(regs.TDLEN(0), 128)
			r.w(regs.DCA_TXCTRL(0), 0)
			r.w(regs.TXDCTL(0), regs.TXDCTL_ENABLE)
		}, "DMATXCTL.TE"},
		{"the tail at the head", func(r *rig) { r.bringUp(); r.receive(0); r.w(regs.RDT(0), 0) }, "RDT[0] set to RDH"},
		{"a register nobody knows", func(r *rig) { r.w(0x7fff0, 1) }, "0x7fff0"},
		{"no bus master", func(r *rig) {
			r.bringUp()
			r.transmit(0)
			r.must(r.dev.WriteConfig(4, 2, 2))
			r.send(0, eth(mac(1), mac(2), ""), 0, 0)
		}, "bus master"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{Strict: true})
			r.want = 1
			c.do(r)
			if v := r.nic.Violations(); len(v) != 1 || !strings.Contains(v[0].Error(), c.want) {
				t.Errorf("%v, want one about %s", v, c.want)
			}
		})
	}
}

// FuzzRegisters throws accesses at the card: nothing may panic or hang.
func FuzzRegisters(f *testing.F) {
	f.Add([]byte{0, 0, 0x80, 0, 1, 2, 3, 4}, uint16(0))
	var enable []byte
	for _, w := range [][2]uint32{{regs.DMATXCTL, 1}, {regs.TDLEN(0), 512}, {regs.TDBAL(0), 0x10000000}, {regs.TXDCTL(0), regs.TXDCTL_ENABLE}, {regs.TDT(0), 7}} {
		enable = binary.LittleEndian.AppendUint32(enable, w[0]|1)
		enable = binary.LittleEndian.AppendUint32(enable, w[1])
	}
	f.Add(enable, uint16(64))
	f.Fuzz(func(t *testing.T, data []byte, seed uint16) {
		n := New(Config{})
		defer n.Close()
		d := n.Device()
		defer d.Close()
		_ = d.WriteConfig(4, 2, 6)
		m, err := d.AllocDMA(1 << 16)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range bytes(m.Addr, uint64(m.Size)) {
			_ = b
			bytes(m.Addr, uint64(m.Size))[i] = byte(uint32(i) * uint32(seed) >> 3)
		}
		for len(data) >= 8 {
			offset, value := binary.LittleEndian.Uint32(data), binary.LittleEndian.Uint32(data[4:])
			data = data[8:]
			if offset&1 == 1 {
				n.WriteBAR(offset&0x7fffc, value)
			} else {
				n.ReadBAR(offset & 0x7fffc)
			}
			if offset&2 != 0 {
				n.Arrive(udp(everybody, mac(byte(value)), int(value&1023)))
			}
		}
	})
}

// TestFunctionLevelReset is by the PCI Express capability, as the kernel does it; the bit reads as 0.
func TestFunctionLevelReset(t *testing.T) {
	n := New(Config{})
	defer n.Close()
	before := n.Resets()
	n.WriteBAR(regs.HLREG0, 0xc07)
	for _, w := range []struct{ offset, size, value int }{{4, 2, 6}, {capPCIe + 8, 2, 0x2810}} {
		if err := n.WriteConfig(w.offset, w.size, uint32(w.value)); err != nil {
			t.Fatal(err)
		}
	}
	if n.Resets() != before {
		t.Fatal("it was reset by another bit")
	}
	if err := n.WriteConfig(capPCIe+8, 2, 0xa810); err != nil {
		t.Fatal(err)
	}
	command, _ := n.ReadConfig(4, 2)
	control, _ := n.ReadConfig(capPCIe+8, 2)
	if n.Resets() != before+1 || command&4 != 0 || control&0x8000 != 0 || n.ReadBAR(regs.HLREG0) == 0xc07 {
		t.Errorf("%d resets, command %#x, device control %#x, HLREG0 %#x", n.Resets()-before, command, control, n.ReadBAR(regs.HLREG0))
	}
}
