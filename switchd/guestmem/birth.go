package guestmem

import "golang.org/x/sys/unix"

// birth tells a file from another one that has got the same inode number later: those of a memfd are 32 bits wide and come again. It stays
// equal for as long as the file lives: statx(2)'s time of birth in ns where the file system has it (tmpfs and memfd, Linux 5.18). There the
// change time would not do, a balloon that punches holes moves it. hugetlbfs has no time of birth, and punching does not move the change
// time, which is set when the file gets its size: that is taken. 0: neither is known.
func birth(fd int) uint64 {
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME|unix.STATX_CTIME, &st) != nil {
		return 0
	}
	at := st.Btime
	if st.Mask&unix.STATX_BTIME == 0 {
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) != nil || fs.Type != unix.HUGETLBFS_MAGIC {
			return 0
		}
		at = st.Ctime
	}
	return uint64(at.Sec)*1e9 + uint64(at.Nsec)
}
