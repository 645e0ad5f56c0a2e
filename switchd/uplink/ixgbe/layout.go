package ixgbe

import (
	"fmt"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// Layout is how the NIC's 128 receive and transmit queues are divided among pools (7.2.1.2.1, 7.1.2.2).
type Layout struct {
	Name   string
	Pools  int
	Stride int // queues that a pool has
	used   int // of these, how many the NIC may choose for a frame
	tcs    int // traffic classes; 1 without DCB
	mrqc   uint32
	mtqc   uint32
}

// Layouts by name. In 64x2 the NIC puts all of a pool's frames into its first queue; 32x4 spreads them by RSS; in the DCB layouts the
// priority in a frame's tag chooses the queue.
var layouts = []Layout{
	{Name: "64x2", Pools: 64, Stride: 2, used: 1, tcs: 1, mrqc: regs.MRQC_VMDQ64, mtqc: regs.MTQC_VMDQ64},
	{Name: "32x4", Pools: 32, Stride: 4, used: 4, tcs: 1, mrqc: regs.MRQC_VMDQ32RSS | rssFields, mtqc: regs.MTQC_VMDQ32},
	{Name: "dcb16x8", Pools: 16, Stride: 8, used: 8, tcs: 8, mrqc: regs.MRQC_VMDQ16DCB, mtqc: regs.MTQC_DCB16},
	{Name: "dcb32x4", Pools: 32, Stride: 4, used: 4, tcs: 4, mrqc: regs.MRQC_VMDQ32DCB, mtqc: regs.MTQC_DCB32},
}

const rssFields = regs.MRQC_RSS_TCP4 | regs.MRQC_RSS_IP4 | regs.MRQC_RSS_IP6 | regs.MRQC_RSS_TCP6

// DefaultLayout is that of DPDK's vhost sample.
const DefaultLayout = "64x2"

// LayoutNames lists what FindLayout knows.
func LayoutNames() []string {
	var names []string
	for _, l := range layouts {
		names = append(names, l.Name)
	}
	return names
}

// FindLayout finds a layout by its name; "" is the default.
func FindLayout(name string) (Layout, error) {
	if name == "" {
		name = DefaultLayout
	}
	for _, l := range layouts {
		if l.Name == name {
			return l, nil
		}
	}
	return Layout{}, fmt.Errorf("VMDq layout %q: want one of %v", name, LayoutNames())
}

// first is the first queue of a pool.
func (l *Layout) first(pool int) int { return pool * l.Stride }

// worker is the transmit queue of a worker: from the last one down, without the pools' first ones, which are the ports'. Thus they lie in as few
// pools as can be, those of the ports that come last.
func (l *Layout) worker(i int) int {
	perPool := l.Stride - 1
	return l.first(l.Pools-i/perPool) - 1 - i%perPool
}

// rss tells whether the NIC spreads a pool's frames by hash.
func (l *Layout) rss() bool { return l.mrqc&rssFields != 0 }
