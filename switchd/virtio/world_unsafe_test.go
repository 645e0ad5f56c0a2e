package virtio

import (
	"sync/atomic"
	"unsafe"
)

// Atomic access to the tests' own mapping of guest memory, apart from guestmem's. Each assumes that b is not in the Go heap and that
// b[off:] holds the whole word, aligned to its size; all are sequentially consistent, which is what a driver's barriers amount to.

func load32(b []byte, off int) uint32 { return atomic.LoadUint32((*uint32)(unsafe.Pointer(&b[off]))) }

func store32(b []byte, off int, v uint32) { atomic.StoreUint32((*uint32)(unsafe.Pointer(&b[off])), v) }

func load64(b []byte, off int) uint64 { return atomic.LoadUint64((*uint64)(unsafe.Pointer(&b[off]))) }

func store64(b []byte, off int, v uint64) { atomic.StoreUint64((*uint64)(unsafe.Pointer(&b[off])), v) }
