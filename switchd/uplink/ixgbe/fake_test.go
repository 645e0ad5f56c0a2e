package ixgbe

import (
	"sync"
	"testing"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// plain is a device of plain memory: registers answer as a healthy NIC's would, and nothing moves by itself. It costs nothing, which the
// model cannot say of itself.
type plain struct {
	pci.Device // what is not needed here
	mu         sync.Mutex
	bar        [regs.BARSize / 4]uint32
	buffers    []*guestmem.Buffer
	gone       bool     // reads give all ones
	stuck      int64    // a register that keeps what it has; -1: none
	broken     []string // rules: a ring's registers that were written while its queue was enabled
}

func newPlain() *plain {
	p := &plain{stuck: -1}
	p.bar[regs.EEC/4] = regs.EEC_ARD | regs.EEC_PRES
	p.bar[regs.RDRXCTL/4] = regs.RDRXCTL_DMAIDONE
	p.bar[regs.SECRXSTAT/4] = regs.SECRXSTAT_RDY
	p.bar[regs.LINKS/4] = regs.LINKS_UP | regs.LINKS_SPEED_10G
	return p
}

func (p *plain) Address() string                      { return "0000:03:00.0" }
func (p *plain) Access() string                       { return "plain" }
func (p *plain) ReadConfig(o, _ int) (uint32, error)  { return map[int]uint32{0: 0x10fb8086}[o], nil }
func (p *plain) WriteConfig(_, _ int, _ uint32) error { return nil }
func (p *plain) BAR(int) (pci.Registers, error)       { return p, nil }
func (p *plain) Len() int                             { return regs.BARSize }
func (p *plain) FreeDMA(pci.DMA) error                { return nil }
func (p *plain) UnmapRegion(uint64, uint64) error     { return nil }

func (p *plain) Reset() error { return pci.ErrUnsupported }

func (p *plain) MapRegion(r pci.Region) (uint64, error) { return uint64(r.Addr), nil }

func (p *plain) Close() error {
	for _, b := range p.buffers {
		b.Close()
	}
	return nil
}

func (p *plain) AllocDMA(size int) (pci.DMA, error) {
	b, err := guestmem.NewBuffer((size + 4095) &^ 4095)
	if err != nil {
		return pci.DMA{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.buffers = append(p.buffers, b)
	return pci.DMA{Addr: b.Addr(0), IOVA: uint64(b.Addr(0)), Size: size}, nil
}

func (p *plain) Read32(o uint32) uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.gone:
		return 0xffffffff
	case o == regs.STATUS && p.bar[regs.CTRL/4]&regs.CTRL_GIO_DIS == 0:
		return regs.STATUS_GIO
	}
	return p.bar[o/4]
}

func (p *plain) Write32(o, v uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case o == regs.CTRL && p.stuck != regs.CTRL:
		v &^= regs.CTRL_RST | regs.CTRL_LRST
	case int64(o) == p.stuck && o != regs.CTRL:
		return
	}
	if r, i := regs.Lookup(o); r != nil && r.Mode == regs.Queue {
		control := regs.RXDCTL(r.First + i)
		if r.Name[0] == 'T' {
			control = regs.TXDCTL(r.First + i)
		}
		if p.bar[control/4]&regs.RXDCTL_ENABLE != 0 {
			p.broken = append(p.broken, regs.Name(o))
		}
	}
	p.bar[o/4] = v
}

// change does something to the device behind the driver's back.
func (p *plain) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// eager is the device for benchmarks: no lock, tails only.
type eager struct{ *plain }

func (e eager) BAR(int) (pci.Registers, error) { return e, nil }
func (e eager) Write32(o, v uint32) {
	if o == regs.CTRL {
		v &^= regs.CTRL_RST
	}
	e.bar[o/4] = v
}
func (e eager) Read32(o uint32) uint32 {
	if o == regs.STATUS && e.bar[regs.CTRL/4]&regs.CTRL_GIO_DIS == 0 {
		return regs.STATUS_GIO
	}
	return e.bar[o/4]
}

func mustLayout(tb testing.TB, name string) Layout {
	tb.Helper()
	l, err := FindLayout(name)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}
