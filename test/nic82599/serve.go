package nic82599

import (
	"context"
	"log/slog"

	"vhostkit/switchd/uplink/ixgbe/regs"
	"vhostkit/test/vfiouser"
)

// layout is the card's: registers in BAR 0, the MSI-X table in BAR 4.
var layout = vfiouser.Layout{BAR: [6]uint64{0: regs.BARSize, 4: 0x4000}, Config: 4096, Vectors: regs.MSIXVectors}

// Serve serves the card over vfio-user until the context ends; log may be nil.
func (n *NIC) Serve(ctx context.Context, path string, log *slog.Logger) error {
	return vfiouser.New(served{n}, layout, log).Serve(ctx, path)
}

// served is the card as the server has it.
type served struct{ *NIC }

// SetMemory keeps a nil of the server's type from becoming a memory.
func (s served) SetMemory(m *vfiouser.Memory) {
	if m == nil {
		s.NIC.SetMemory(nil)
		return
	}
	s.NIC.SetMemory(m)
}
