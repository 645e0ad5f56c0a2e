package unixsocket

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MakeDirectory makes a directory for sockets or state, and what is missing above it. Where a part of the path lies in a directory that
// everybody can write to, such as /tmp, somebody else may have made it first: it is an error if it is not a directory of this user's or
// root's, or if others can write there.
func MakeDirectory(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	for ; path != "/"; path = filepath.Dir(path) {
		var parent, st unix.Stat_t
		if err := unix.Stat(filepath.Dir(path), &parent); err != nil {
			return &os.PathError{Op: "stat", Path: filepath.Dir(path), Err: err}
		}
		if parent.Mode&0o002 == 0 {
			continue
		}
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		if err := trusted(&st); err != nil {
			return fmt.Errorf("%s %w, and lies where everybody can write: remove it, or choose another directory", path, err)
		}
	}
	return nil
}

func trusted(st *unix.Stat_t) error {
	own := int(st.Uid) == os.Geteuid()
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("is no directory")
	case !own && st.Uid != 0:
		return fmt.Errorf("belongs to user %d", st.Uid)
	case st.Mode&0o002 != 0 && (own || st.Mode&unix.S_ISVTX == 0), st.Mode&0o020 != 0 && int(st.Gid) != os.Getegid():
		return fmt.Errorf("can be written to by others (mode %04o)", st.Mode&0o7777)
	}
	return nil
}
