package ixgbe

import (
	"unsafe"

	"vhostkit/switchd/pci"
)

// rxView views DMA memory as a ring. It assumes that the memory holds rxSize descriptors, lies outside the Go heap, and stays mapped for as
// long as the ring is used.
func rxView(m pci.DMA) *rxDescriptors {
	return (*rxDescriptors)(unsafe.Add(unsafe.Pointer(nil), m.Addr))
}

// txView views DMA memory as a ring, under the same assumptions.
func txView(m pci.DMA) *txDescriptors {
	return (*txDescriptors)(unsafe.Add(unsafe.Pointer(nil), m.Addr))
}
