package budget

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ThisHost reads what the bounds are made of.
func ThisHost() (Host, error) {
	var h Host
	data, err := os.ReadFile("/proc/sys/vm/max_map_count")
	if err != nil {
		return h, fmt.Errorf("reading how many mappings a process may have: %w", err)
	}
	if h.MaxMapCount, err = strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err != nil {
		return h, fmt.Errorf("/proc/sys/vm/max_map_count: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return h, fmt.Errorf("getrlimit(RLIMIT_NOFILE): %w", err)
	}
	h.Descriptors = limit.Cur
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return h, fmt.Errorf("sysinfo: %w", err)
	}
	h.Memory = (uint64(info.Totalram) + uint64(info.Totalswap)) * uint64(info.Unit)
	return h, nil
}
