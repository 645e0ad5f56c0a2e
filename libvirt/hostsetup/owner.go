package hostsetup

import (
	"io/fs"
	"syscall"
)

// owner is a file's user and group.
func owner(info fs.FileInfo) [2]int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return [2]int{int(st.Uid), int(st.Gid)}
	}
	return [2]int{}
}
