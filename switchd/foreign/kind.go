package foreign

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// EventFD is what the link of an eventfd in /proc says. No path of a file looks like this.
const EventFD = "anon_inode:[eventfd]"

// IsMemory tells that a descriptor is of a memfd, or of a regular file on tmpfs or hugetlbfs: one that consists of memory and whose pages
// come from nobody but the kernel. F_GET_SEALS knows these two file systems by the file itself and nothing else has seals, so neither a
// name nor a file system that lies about its type can pass for them; and it asks nobody (fcntl(2)).
func IsMemory(fd int) bool {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// IsEventFD tells that a descriptor is an eventfd.
func IsEventFD(fd int) bool {
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return err == nil && link == EventFD
}

// waits tells that a system call on the descriptor may wait for its owner.
func waits(fd int) bool { return !IsMemory(fd) && !IsEventFD(fd) }
