package switchd

import (
	"os"
	"strconv"

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

// leaveCores moves all threads of the process off the cores that workers are pinned to, as long as others are left: whatever else runs there
// stops frames for the time of a context switch. Threads made later inherit it, workers pin themselves.
func leaveCores(workers []int) {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return
	}
	for _, core := range workers {
		if core >= 0 {
			set.Clear(core)
		}
	}
	if set.Count() == 0 {
		return
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.SchedSetaffinity(tid, &set) // a thread that has just ended
		}
	}
}
