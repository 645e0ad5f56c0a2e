package guestmem

import "golang.org/x/sys/cpu"

// hasAVX2 chooses the assembly; tests turn it off to compare.
var hasAVX2 = cpu.X86.HasAVX2

func moveAll(moves []Move) {
	if hasAVX2 {
		moveAVX2(&moves[0], len(moves))
	} else {
		moveGeneric(moves)
	}
}

// moveAVX2 assumes n moves at m, each as Move demands. A fault on guest memory becomes a panic as in Go code.
//
//go:noescape
func moveAVX2(m *Move, n int)

// Prefetch brings the cache lines at n addresses near: the Ptr at first, those stride bytes further in memory each, plus off. It is a hint;
// any address will do.
//
//go:noescape
func Prefetch(first *Ptr, n, stride, off int)

// PrefetchLine brings the cache line at p near. It is a hint; any address will do.
func PrefetchLine(p Ptr)
