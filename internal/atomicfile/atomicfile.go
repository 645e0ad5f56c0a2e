// Package atomicfile replaces files so that a crash leaves the old content or the new, never a part: a temporary file in the same
// directory is written, flushed to the disk and renamed, and then the directory is flushed, without which the rename itself may be lost.
//
// Source: rename(2), fsync(2).
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces a file, or makes it, with these permission bits; the umask does not take any of them away. The directory must exist.
func Write(path string, content []byte, mode fs.FileMode) error {
	return Replace(path, func(f *os.File) error {
		if _, err := f.Write(content); err != nil {
			return err
		}
		return f.Chmod(mode)
	}, nil)
}

// Replace lets fill write the new file, which only its owner can open until then, and puts it in place. The file belongs to Replace, which
// flushes and closes it.
//
// step, if not nil, is called with a name before each step that changes the file system. Its error stops there, as a crash would: nothing
// is cleaned up. It is for tests.
func Replace(path string, fill func(*os.File) error, step func(name string) error) error {
	if step == nil {
		step = func(string) error { return nil }
	}
	if err := step("temporary " + path); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".vhostkit-*")
	if err != nil {
		return err
	}
	if err := errors.Join(fill(temporary), temporary.Sync(), temporary.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	if err := step("rename " + path); err != nil {
		return err
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	if err := step("sync " + path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// Remove removes a file for good. One that is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory makes what was renamed or removed in a directory last. A directory that is gone has nothing to keep.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
