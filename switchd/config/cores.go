package config

import (
	"fmt"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CoreList is a list of cores; one of -1 alone is a worker that is not pinned.
type CoreList []int

func (c *Config) checkCores() error {
	if len(c.Cores) == 0 || len(c.Cores) > 64 {
		return &RangeError{"--cores", fmt.Sprint(c.Cores), "1 to 64 cores"}
	}
	seen := map[int]bool{}
	for _, core := range c.Cores {
		if core < -1 || core >= 1024 {
			return &RangeError{"--cores", strconv.Itoa(core), "0..1023"}
		}
		if core >= 0 && seen[core] {
			return &RangeError{"--cores", strconv.Itoa(core), "a list with each core once"}
		}
		seen[core] = true
	}
	return nil
}

// ParseCores reads a list such as "1-3,5". The answer is in ascending order, each core once.
func ParseCores(s string) ([]int, error) {
	bad := &RangeError{"--cores", strconv.Quote(s), "a list such as 1-3,5 of cores 0..1023"}
	var cores []int
	for _, part := range strings.Split(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		low, err := strconv.Atoi(first)
		if err != nil {
			return nil, bad
		}
		high := low
		if isRange {
			if high, err = strconv.Atoi(last); err != nil {
				return nil, bad
			}
		}
		if low < 0 || high > 1023 || low > high {
			return nil, bad
		}
		for core := low; core <= high; core++ {
			cores = append(cores, core)
		}
	}
	slices.Sort(cores)
	return slices.Compact(cores), nil
}

// KeepPresentCores drops the cores that this machine does not have, or that the process may not use, and says so in a
// warning. Values that no machine has are left for Validate.
func (c *Config) KeepPresentCores() error {
	allowed := allowedCores()
	var keep, gone []int
	for _, core := range c.Cores {
		if core < 0 || core > 1023 || allowed[core] {
			keep = append(keep, core)
		} else {
			gone = append(gone, core)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if len(keep) == 0 && c.MainCore >= 0 && allowed[c.MainCore] {
		keep = []int{c.MainCore} // no worker core must not mean no service
	}
	if len(keep) == 0 {
		return fmt.Errorf("none of the cores %v can be used: this machine has %d, and this process may use %v", gone, runtime.NumCPU(), keys(allowed))
	}
	c.Cores = keep
	c.Warnings = append(c.Warnings, fmt.Sprintf("cores %v are not there or not allowed; workers run on %v", gone, keep))
	return nil
}

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
