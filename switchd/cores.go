package switchd

import (
	"sort"

	"golang.org/x/sys/unix"
)

// allowedCores are the cores that this process may run on.
func allowedCores() map[int]bool {
	allowed := map[int]bool{}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return allowed
	}
	for core := range 1024 {
		if set.IsSet(core) {
			allowed[core] = true
		}
	}
	return allowed
}

func keys(m map[int]bool) []int {
	var list []int
	for k := range m {
		list = append(list, k)
	}
	sort.Ints(list)
	return list
}
