package nic82599

import (
	"unsafe"

	"vhostkit/switchd/guestmem"
)

// pointer gives the address of a mapping. It assumes that the slice is not Go's memory, which could move.
func pointer(b []byte) guestmem.Ptr {
	return guestmem.AddressOf(b)
}

// bytes gives memory at an address. It assumes that size bytes are mapped there as long as the slice is used, outside of Go's memory.
func bytes(p guestmem.Ptr, size uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), uintptr(p))), size)
}
