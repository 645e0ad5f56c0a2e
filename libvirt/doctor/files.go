package doctor

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// FileInfo is what the checks want to know of a file.
type FileInfo struct {
	Mode     fs.FileMode
	UID, GID int
	Device   uint64
	Inode    uint64
	Modified time.Time
	Changed  time.Time // of the inode (ctime): it cannot be set back
}

// Files is a view of the file system. Paths are absolute.
type Files interface {
	ReadFile(path string) ([]byte, error)
	ReadDir(path string) ([]string, error) // names, sorted
	Stat(path string) (FileInfo, error)    // follows links
	Readlink(path string) (string, error)
	Resolve(path string) (string, error) // without links
	// Attribute is an extended attribute, "" where it is absent or the file system has none.
	Attribute(path, name string) string
}

// Dir is the file system below a directory; "" is the running system.
type Dir string

// maxRead bounds what is read of one file: some belong to other users.
const maxRead = 4 << 20

func (d Dir) at(path string) string { return filepath.Join(string(d), "/", path) }

// ReadFile implements Files.
func (d Dir) ReadFile(path string) ([]byte, error) {
	f, err := os.OpenFile(d.at(path), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxRead {
		return nil, fmt.Errorf("%s: more than %d MiB", path, maxRead>>20)
	}
	return data, nil
}

// ReadDir implements Files.
func (d Dir) ReadDir(path string) ([]string, error) {
	entries, err := os.ReadDir(d.at(path))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Stat implements Files.
func (d Dir) Stat(path string) (FileInfo, error) {
	info, err := os.Stat(d.at(path))
	if err != nil {
		return FileInfo{}, err
	}
	f := FileInfo{Mode: info.Mode(), Modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.UID, f.GID, f.Device, f.Inode = int(st.Uid), int(st.Gid), uint64(st.Dev), st.Ino
		f.Changed = time.Unix(int64(st.Ctim.Sec), int64(st.Ctim.Nsec))
	}
	return f, nil
}

// Readlink implements Files.
func (d Dir) Readlink(path string) (string, error) { return os.Readlink(d.at(path)) }

// Resolve implements Files.
func (d Dir) Resolve(path string) (string, error) {
	p, err := filepath.EvalSymlinks(d.at(path))
	if err != nil {
		return "", err
	}
	root, err := filepath.EvalSymlinks(d.at("/"))
	if err != nil {
		return "", err
	}
	return filepath.Join("/", strings.TrimPrefix(p, root)), nil
}

// Attribute implements Files.
func (d Dir) Attribute(path, name string) string {
	buffer := make([]byte, 1024)
	n, err := unix.Getxattr(d.at(path), name, buffer)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(buffer[:n]), "\x00")
}

// text is a file's content without the white space around it, "" where it cannot be read.
func text(f Files, path string) string {
	data, err := f.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
