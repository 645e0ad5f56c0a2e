// Package unixsocket makes Unix sockets safely: never reachable with the wrong owner or mode, a stale file replaced, a live one respected.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another process serves the socket.
var ErrInUse = errors.New("socket is in use")

// Listener is a Unix listener that removes its file when it closes, if the file is still its own.
type Listener struct {
	*net.UnixListener
	path  string
	inode uint64
	once  sync.Once
}

// Access is who may connect. The zero value is this process's owner and group, mode 0660.
type Access struct {
	UID   *int        // owner; nil: this process's
	Group string      // by name or number; empty: this process's
	Mode  os.FileMode // 0: 0660
}

// Listen binds beside the path, sets owner and mode there, and moves the socket into place: it is never reachable with the wrong
// permissions, and there is no moment without a socket when a stale one is replaced.
func Listen(path string, access Access) (*Listener, error) {
	if access.Mode == 0 {
		access.Mode = 0o660
	}
	if err := checkStale(path); err != nil {
		return nil, err
	}
	temporary := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%d", filepath.Base(path), os.Getpid()))
	_ = os.Remove(temporary)
	l, err := bind(temporary)
	if err != nil {
		return nil, fmt.Errorf("making socket %s: %w (does the directory exist, and may this user write there?)", path, err)
	}
	inode, err := access.permit(temporary)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		l.Close()
		os.Remove(temporary)
		return nil, fmt.Errorf("putting socket %s in place: %w", path, err)
	}
	return &Listener{UnixListener: l, path: path, inode: inode}, nil
}

// bind makes a socket that nobody may connect to yet. Linux gives the file the mode that the socket itself has, without the umask's bits.
func bind(path string) (*net.UnixListener, error) {
	closed := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0) }); e != nil {
			return e
		}
		return err
	}}
	l, err := closed.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	return u, nil
}

// permit gives the socket that bind made its owner and mode, and tells its inode. The file is opened first and changed through its
// descriptor: in a directory of somebody else's the name may have become a link to another file.
func (a Access) permit(path string) (inode uint64, err error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	if st.Mode != unix.S_IFSOCK || st.Nlink != 1 || int(st.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("%s was replaced while it was made: choose a directory that only switchd's user can write to", path)
	}
	if err := a.own(fd); err != nil {
		return 0, fmt.Errorf("owner: %w", err)
	}
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), a.Mode); err != nil {
		return 0, fmt.Errorf("mode: %w", err)
	}
	return st.Ino, nil
}

// checkStale makes sure that a file at the path is a socket that nobody serves.
func checkStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is not a socket: move it away or choose another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("%w: another process serves %s; stop it or choose another path", ErrInUse, path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: cannot tell whether %s is served: %w", ErrInUse, path, err)
	}
	return nil
}

// own gives the open file its owner and group.
func (a Access) own(fd int) error {
	uid, gid := -1, -1
	if a.UID != nil {
		uid = *a.UID
	}
	if a.Group != "" {
		var err error
		if gid, err = GroupID(a.Group); err != nil {
			return err
		}
	}
	if uid < 0 && gid < 0 {
		return nil
	}
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

// GroupID is the number of a group given by name or number.
func GroupID(group string) (int, error) {
	if gid, err := strconv.Atoi(group); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// Close ends accepting and removes the socket file unless somebody else has put theirs in its place.
func (l *Listener) Close() error {
	var err error
	l.once.Do(func() {
		err = l.UnixListener.Close()
		var st unix.Stat_t
		if unix.Lstat(l.path, &st) == nil && st.Ino == l.inode {
			os.Remove(l.path)
		}
	})
	return err
}
