package guestmem

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Buffer is anonymous memory outside the Go heap, for frames that come from or go to an uplink: it has an address that stays.
type Buffer struct {
	data []byte
}

// NewBuffer maps size bytes of zeroed memory.
func NewBuffer(size int) (*Buffer, error) {
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes for frame buffers: %w", size, err)
	}
	return &Buffer{data: data}, nil
}

// Bytes is the whole buffer. It is invalid after Close.
func (b *Buffer) Bytes() []byte { return b.data }

// Addr is the address of byte offset of the buffer.
func (b *Buffer) Addr(offset int) Ptr { return AddressOf(b.data[offset:]) }

// Close unmaps the buffer.
func (b *Buffer) Close() {
	if b.data != nil {
		_ = unix.Munmap(b.data)
		b.data = nil
	}
}
