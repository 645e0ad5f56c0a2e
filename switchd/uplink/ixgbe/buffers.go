package ixgbe

import (
	"fmt"

	"github.com/hashicorp/go-multierror"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/pci"
)

// chunk bounds one piece of DMA memory: what is sure to be in one piece for the device even without an IOMMU, a huge page.
const chunk = 2 << 20

// buffers is a ring's memory: buffer i belongs to descriptor i for ever.
type buffers struct {
	memory []pci.DMA
	addr   []guestmem.Ptr // by descriptor
	iova   []uint64
	size   int // bytes of each
}

// allocate gets n buffers of size bytes.
func (b *buffers) allocate(dev pci.Device, n, size int) error {
	b.size = size
	perChunk := max(chunk/size, 1)
	for len(b.addr) < n {
		count := min(perChunk, n-len(b.addr))
		m, err := dev.AllocDMA(count * size)
		if err != nil {
			return fmt.Errorf("%d buffers of %d bytes that the device can reach: %w", n, size, err)
		}
		b.memory = append(b.memory, m)
		for i := range count {
			b.addr = append(b.addr, m.Addr+guestmem.Ptr(i*size))
			b.iova = append(b.iova, m.IOVA+uint64(i*size))
		}
	}
	return nil
}

func (b *buffers) free(dev pci.Device) error {
	all := &multierror.Error{}
	for _, m := range b.memory {
		all = multierror.Append(all, dev.FreeDMA(m))
	}
	*b = buffers{}
	return all.ErrorOrNil()
}
