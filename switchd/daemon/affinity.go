package daemon

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

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
