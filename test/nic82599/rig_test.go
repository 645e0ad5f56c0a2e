package nic82599

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// rig is a card with a driver's rings around it, as simple as can be.
type rig struct {
	*testing.T
	nic  *NIC
	wire *Pair
	dev  pci.Device
	rx   map[int]*ring
	tx   map[int]*ring
	want int // violations that a test expects
}

type ring struct {
	desc, data pci.DMA
	next       int
}

const ringSize, bufferSize = 32, 2048

func newRig(t *testing.T, c Config) *rig {
	t.Helper()
	wire := NewPair(256)
	if c.Wire == nil {
		c.Wire = wire
	}
	r := &rig{T: t, nic: New(c), wire: wire, rx: map[int]*ring{}, tx: map[int]*ring{}}
	r.dev = r.nic.Device()
	r.must(r.dev.WriteConfig(4, 2, 6))
	t.Cleanup(func() {
		r.nic.Close()
		r.must(r.dev.Close())
		if v := r.nic.Violations(); len(v) != r.want {
			t.Errorf("%d violations, want %d: %v", len(v), r.want, v)
		}
	})
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) w(offset, value uint32) { r.nic.WriteBAR(offset, value) }
func (r *rig) r(offset uint32) uint32 { return r.nic.ReadBAR(offset) }
func (r *rig) dma(size int) pci.DMA   { m, err := r.dev.AllocDMA(size); r.must(err); return m }
func (r *rig) mem(m pci.DMA) []byte   { return bytes(m.Addr, uint64(m.Size)) }
func (g *ring) at(i int) (d, b int)   { return i % ringSize * regs.DescSize, i % ringSize * bufferSize }

// bringUp is what a driver does before its rings (4.6).
func (r *rig) bringUp() {
	r.w(regs.ESDP, r.r(regs.ESDP)&^regs.ESDP_SDP3)
	r.clearTables("")
	for _, t := range regs.Table() {
		for i := range t.Count {
			if t.Mode == regs.RC {
				r.r(t.Offset + uint32(i)*t.Stride)
			}
		}
	}
	r.w(regs.HLREG0, r.r(regs.HLREG0)|regs.HLREG0_RXCRCSTR|regs.HLREG0_TXCRCEN|regs.HLREG0_TXPADEN)
	r.w(regs.RDRXCTL, r.r(regs.RDRXCTL)|regs.RDRXCTL_CRCSTRIP)
	r.w(regs.RXPBSIZE(0), 0x80000)
	r.w(regs.FCRTH(0), 0x80000-24576)
	r.w(regs.FCTRL, regs.FCTRL_BAM)
	r.w(regs.DMATXCTL, regs.DMATXCTL_TE)
}

// clearTables writes the tables that are undefined after a reset, but for the last entry of one.
func (r *rig) clearTables(but string) {
	for _, t := range undefinedTables {
		last := t.count - 1
		if t.name != but {
			last = t.count
		}
		for i := t.first; i < last; i++ {
			r.w(t.register(i), 0)
		}
	}
}

// stopMaster ends the card's accesses to memory, as it has to before a reset.
func (r *rig) stopMaster() {
	r.Helper()
	r.w(regs.CTRL, r.r(regs.CTRL)|regs.CTRL_GIO_DIS)
	for range 10 {
		if r.r(regs.STATUS)&regs.STATUS_GIO == 0 {
			return
		}
	}
	r.Error("the master does not stop")
}

func (r *rig) receive(q int) {
	g := &ring{desc: r.dma(ringSize * regs.DescSize), data: r.dma(ringSize * bufferSize)}
	r.rx[q] = g
	for i := range ringSize {
		d, b := g.at(i)
		binary.LittleEndian.PutUint64(r.mem(g.desc)[d:], g.data.IOVA+uint64(b))
	}
	r.w(regs.RDBAL(q), uint32(g.desc.IOVA))
	r.w(regs.RDBAH(q), uint32(g.desc.IOVA>>32))
	r.w(regs.RDLEN(q), ringSize*regs.DescSize)
	r.w(regs.SRRCTL(q), bufferSize>>10|regs.SRRCTL_ADV_ONEBUF|regs.SRRCTL_DROP_EN)
	r.w(regs.RXDCTL(q), r.r(regs.RXDCTL(q))|regs.RXDCTL_ENABLE)
	r.w(regs.RDT(q), ringSize-1)
}

func (r *rig) start() { r.w(regs.RXCTRL, regs.RXCTRL_RXEN) }

func (r *rig) transmit(q int) {
	g := &ring{desc: r.dma(ringSize * regs.DescSize), data: r.dma(ringSize * bufferSize)}
	r.tx[q] = g
	r.w(regs.TDBAL(q), uint32(g.desc.IOVA))
	r.w(regs.TDBAH(q), uint32(g.desc.IOVA>>32))
	r.w(regs.TDLEN(q), ringSize*regs.DescSize)
	r.w(regs.DCA_TXCTRL(q), 0)
	r.w(regs.TXDCTL(q), regs.TXDCTL_ENABLE)
	if r.pools() {
		r.descriptor(q, ethHeader<<9, regs.TXD_DTYP_CTXT|regs.TXD_DEXT, 0)
	}
}

const ethHeader = 14 // bytes

// pools: queues are divided among pools, whose frames need a context (7.2.3.2.4).
func (r *rig) pools() bool { return r.r(regs.MTQC)&regs.MTQC_VT_ENA != 0 }

// descriptor puts 16 bytes into a transmit ring.
func (r *rig) descriptor(q int, low uint64, command, status uint32) (at int) {
	g := r.tx[q]
	at, _ = g.at(g.next)
	d := r.mem(g.desc)[at:]
	binary.LittleEndian.PutUint64(d, low)
	binary.LittleEndian.PutUint32(d[8:], command)
	binary.LittleEndian.PutUint32(d[12:], status)
	g.next++
	return at
}

// send sends a frame with options, and waits for nothing.
func (r *rig) send(q int, frame []byte, command, status uint32) (at int) {
	g := r.tx[q]
	_, b := g.at(g.next)
	copy(r.mem(g.data)[b:b+bufferSize], frame)
	if r.pools() {
		status |= regs.TXD_CC
	}
	at = r.descriptor(q, g.data.IOVA+uint64(b), uint32(len(frame))|regs.TXD_DTYP_DATA|regs.TXD_EOP|regs.TXD_IFCS|regs.TXD_DEXT|regs.TXD_RS|command,
		status|uint32(len(frame))<<regs.TXD_PAYLEN_SHIFT)
	r.w(regs.TDT(q), uint32(g.next%ringSize))
	return at
}

// got takes a frame out of a receive ring: nil if there is none. status is the write-back's second quad word.
func (r *rig) got(q int) (frame []byte, types uint32, status uint64) {
	g := r.rx[q]
	d, b := g.at(g.next)
	desc := r.mem(g.desc)[d:]
	if status = binary.LittleEndian.Uint64(desc[8:]); status&regs.RXD_STAT_DD == 0 {
		return nil, 0, 0
	}
	types = binary.LittleEndian.Uint32(desc)
	frame = append([]byte(nil), r.mem(g.data)[b:][:status>>regs.RXD_LEN_SHIFT&0xffff]...)
	binary.LittleEndian.PutUint64(desc, g.data.IOVA+uint64(b))
	binary.LittleEndian.PutUint64(desc[8:], 0)
	r.w(regs.RDT(q), uint32((g.next+ringSize)%ringSize))
	g.next++
	return frame, types, status
}

// out is what the card has put on the wire.
func (r *rig) out() []byte {
	r.Helper()
	select {
	case f := <-r.wire.Out:
		return f
	case <-time.After(5 * time.Second):
		r.Fatal("nothing on the wire")
		return nil
	}
}

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }

var everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// eth makes a frame; payload is padded to the shortest that Ethernet has.
func eth(to, from net.HardwareAddr, payload string) []byte {
	f := append(append(append([]byte(nil), to...), from...), 0x88, 0xb5)
	f = append(f, payload...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

// udp makes a packet with right checksums.
func udp(to, from net.HardwareAddr, payload int) []byte {
	f := append(append(append([]byte(nil), to...), from...), 0x08, 0x00)
	ip := make([]byte, 28+payload)
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(ip[20:], 1000)
	binary.BigEndian.PutUint16(ip[22:], 2000)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+payload))
	for i := range payload {
		ip[28+i] = byte(i)
	}
	f = append(f, ip...)
	binary.BigEndian.PutUint16(f[24:], ^fold(sum(0, f[14:34])))
	l := parse(f)
	binary.BigEndian.PutUint16(f[40:], ^fold(sum(l.pseudo(f), f[l.l4:l.end])))
	return f
}
