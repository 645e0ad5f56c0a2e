//go:build !amd64

package guestmem

func moveAll(moves []Move) { moveGeneric(moves) }

// Prefetch brings the cache lines at n addresses, each stride bytes after the other in memory and off bytes further, near. It is a hint.
func Prefetch(first *Ptr, n, stride, off int) {}

// PrefetchLine brings the cache line at p near. It is a hint.
func PrefetchLine(p Ptr) {}
