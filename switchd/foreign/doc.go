// Package foreign makes the system calls on foreigners' files that may wait for their owners.
//
// A front-end passes descriptors of files that the switch knows nothing of. close(2) of a TCP socket with SO_LINGER lasts as long as its
// peer likes; close(2), fstat(2) and fstatfs(2) of a file on FUSE last until the process that serves it answers; and closing a Unix socket
// closes what lies in it unread, with the same effect. Whoever makes such a call in a goroutine that others wait for hands over the switch.
//
// So a session gives such descriptors to its Files. What cannot wait (eventfds, memfds, files of tmpfs and hugetlbfs) is closed at once, by
// the caller. Anything else is closed by one goroutine of the Files, which is counted as a thread of the account, and the descriptor stays
// counted until its close(2) has returned. Where the user has no threads left, it waits in a queue, and so does nobody else.
package foreign
