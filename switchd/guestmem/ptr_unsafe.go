package guestmem

import "unsafe"

// Ptr is a host virtual address inside memory that is mapped outside the Go heap: a guest's region or a buffer pool of ours. It is an
// integer, so the garbage collector neither follows nor moves it, and storing one costs no write barrier. Zero is no address.
//
// A Ptr is only ever made by Memory's checked translation or by Buffer; whoever holds one must keep that mapping alive. Each method
// assumes that [p, p+size of the access) was checked by the translation that made p.
type Ptr uintptr

// raw turns the address into a pointer. It assumes that p lies in a live mapping outside the Go heap, for which converting an integer is
// safe: nothing there is moved or freed by the collector.
func (p Ptr) raw() unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), p) }

// Bytes views n bytes at p as a slice. It assumes that [p, p+n) is mapped for as long as the slice is used. The contents may change under
// the reader: the guest can write them at any time. Not inlined for the same reason as Copy.
//
//go:noinline
func (p Ptr) Bytes(n int) []byte { return unsafe.Slice((*byte)(p.raw()), n) }

// LoadU16 reads a 16-bit value, once; p need not be aligned on architectures that allow it.
func (p Ptr) LoadU16() uint16 { return *(*uint16)(p.raw()) }

// LoadU32 reads a 32-bit value, once.
func (p Ptr) LoadU32() uint32 { return *(*uint32)(p.raw()) }

// LoadU64 reads a 64-bit value, once.
func (p Ptr) LoadU64() uint64 { return *(*uint64)(p.raw()) }

// StoreU16 writes a 16-bit value.
func (p Ptr) StoreU16(v uint16) { *(*uint16)(p.raw()) = v }

// StoreU32 writes a 32-bit value.
func (p Ptr) StoreU32(v uint32) { *(*uint32)(p.raw()) = v }

// StoreU64 writes a 64-bit value.
func (p Ptr) StoreU64(v uint64) { *(*uint64)(p.raw()) = v }

// Copy moves n bytes from src to dst. Both ranges must be mapped; they may overlap. It is
// not inlined because the compiler of Go 1.26 fails on moves of constant size between addresses that were made from integers.
//
//go:noinline
func Copy(dst, src Ptr, n int) {
	copy(unsafe.Slice((*byte)(dst.raw()), n), unsafe.Slice((*byte)(src.raw()), n))
}

// AddressOf gives the address of a byte slice that lies outside the Go heap (memory from mmap).
func AddressOf(b []byte) Ptr { return Ptr(unsafe.Pointer(unsafe.SliceData(b))) }
