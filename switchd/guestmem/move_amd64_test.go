package guestmem

import "golang.org/x/sys/cpu"

func implementations() map[string]func([]Move) {
	list := map[string]func([]Move){"go": moveGeneric}
	if cpu.X86.HasAVX2 {
		list["avx2"] = func(m []Move) { moveAVX2(&m[0], len(m)) }
	}
	return list
}
