//go:build race && amd64

package guestmem

// With the race detector an atomic load is made by its own C code, on another stack. A page that a front-end takes away just then is a fault in
// that code, which nothing recovers. amd64 sees loads in program order (Intel SDM vol. 3, 8.2.2), and a function that is not inlined keeps the
// compiler from moving them.

// LoadAcquireU32 reads a 32-bit value; no later access is moved before it. It assumes that p is mapped and aligned to 4 bytes.
//
//go:noinline
//go:norace
func (p Ptr) LoadAcquireU32() uint32 { return *(*uint32)(p.raw()) }

// LoadAcquireU64 reads a 64-bit value; no later access is moved before it. It assumes that p is mapped and aligned to 8 bytes.
//
//go:noinline
//go:norace
func (p Ptr) LoadAcquireU64() uint64 { return *(*uint64)(p.raw()) }
