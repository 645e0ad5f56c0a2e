package forward

import (
	"vhostkit/switchd/bridge"
	"vhostkit/switchd/virtio"
)

// groups collects the frames of a burst by destination, in the order in which destinations first occur.
type groups struct {
	n      int
	groups [virtio.BurstSize]group
	index  []uint8 // by destination + 1: place in groups + 1, 0 = none yet
}

type group struct {
	to     bridge.Destination // a port's, or toUplink
	n      int
	frames [virtio.BurstSize]uint8

	// What the fast path has done for it.
	rx    *receiveRing // owned; nil if not, or not any more
	first int          // its place in the fast path's moves
	moved int          // frames
	bytes uint64
	busy  bool // another worker had the ring
}

func (g *groups) init() { g.resize(0) }

func (g *groups) resize(ports int) {
	g.reset()
	if ports >= len(g.index) {
		g.index = make([]uint8, ports+1+ports/4)
	}
}

// add puts a frame to its destination's. It reports false for a port that is newer than the worker's table.
func (g *groups) add(to bridge.Destination, frame int) bool {
	gr := g.group(to)
	if gr == nil {
		return false
	}
	gr.frames[gr.n] = uint8(frame)
	gr.n++
	return true
}

// group gives a destination's group, nil for a port that is newer than the worker's table. A frame is in one group only.
func (g *groups) group(to bridge.Destination) *group {
	if g.n > 0 && g.groups[g.n-1].to == to { // as the frame before
		return &g.groups[g.n-1]
	}
	if int(to)+1 >= len(g.index) {
		return nil
	}
	i := g.index[to+1]
	if i == 0 {
		g.n++
		i = uint8(g.n)
		g.index[to+1] = i
		gr := &g.groups[i-1]
		gr.to, gr.n, gr.moved, gr.busy = to, 0, 0, false
	}
	return &g.groups[i-1]
}

func (g *groups) reset() {
	for i := range g.n {
		g.index[g.groups[i].to+1] = 0
	}
	g.n = 0
}
