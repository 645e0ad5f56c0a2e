//go:build arm64 || riscv64 || loong64

package guestmem

import "sync/atomic"

// Elsewhere sync/atomic gives the order: its accesses are sequentially consistent, also against each other on different addresses.

// StoreReleaseU32 writes a 32-bit value after all earlier stores. p must be aligned to 4 bytes.
func (p Ptr) StoreReleaseU32(v uint32) { atomic.StoreUint32((*uint32)(p.raw()), v) }

// StoreReleaseU64 writes a 64-bit value after all earlier stores. p must be aligned to 8 bytes.
func (p Ptr) StoreReleaseU64(v uint64) { atomic.StoreUint64((*uint64)(p.raw()), v) }

// A Fence is a full memory barrier on demand. The zero value is ready; each thread uses its own.
type Fence struct{ word uint32 }

// Full orders every earlier store before every later load.
func (f *Fence) Full() { atomic.AddUint32(&f.word, 1) }
