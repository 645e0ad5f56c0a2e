//go:build !race || !amd64

package guestmem

import "sync/atomic"

// LoadAcquireU32 reads a 32-bit value; no later access is moved before it. It assumes that p is mapped and aligned to 4 bytes.
func (p Ptr) LoadAcquireU32() uint32 { return atomic.LoadUint32((*uint32)(p.raw())) }

// LoadAcquireU64 reads a 64-bit value; no later access is moved before it. It assumes that p is mapped and aligned to 8 bytes.
func (p Ptr) LoadAcquireU64() uint64 { return atomic.LoadUint64((*uint64)(p.raw())) }
