// Package mount finds hugetlbfs mounts and makes them.
package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vhostkit/hugepages/bytesize"
	"vhostkit/internal/mntent"
)

// Default is where systemd mounts the kernel's default size.
const Default = "/dev/hugepages"

// Mount is a mounted hugetlbfs.
type Mount struct {
	Path    string        `json:"path"`
	Size    bytesize.Size `json:"size"` // of a page
	Options string        `json:"options"`
}

// Table is what is mounted.
type Table struct {
	Huge  []Mount
	other map[string]string // file system type by path
}

// Parse reads /proc/mounts. A hugetlbfs without an option for it has the kernel's default size.
func Parse(mounts string, defaultSize bytesize.Size) Table {
	t := Table{other: map[string]string{}}
	for _, line := range mntent.Mounts(mounts) {
		path := line.Path
		// What is mounted later covers what was mounted there.
		t.Huge = slices.DeleteFunc(t.Huge, func(m Mount) bool { return m.Path == path })
		delete(t.other, path)
		if line.Type != "hugetlbfs" {
			t.other[path] = line.Type
			continue
		}
		m := Mount{Path: path, Size: defaultSize, Options: strings.Join(line.Options, ",")}
		if size, err := bytesize.Parse(line.Option("pagesize")); err == nil {
			m.Size = size
		}
		t.Huge = append(t.Huge, m)
	}
	return t
}

// At is the hugetlbfs at a path.
func (t Table) At(path string) (Mount, bool) {
	i := slices.IndexFunc(t.Huge, func(m Mount) bool { return m.Path == filepath.Clean(path) })
	if i < 0 {
		return Mount{}, false
	}
	return t.Huge[i], true
}

// Of lists the mounts of a page size.
func (t Table) Of(size bytesize.Size) []Mount {
	var list []Mount
	for _, m := range t.Huge {
		if m.Size == size {
			list = append(list, m)
		}
	}
	return list
}

// Other is the type of another file system that is mounted at a path, or empty.
func (t Table) Other(path string) string { return t.other[filepath.Clean(path)] }

// Mounter mounts; tests have their own.
type Mounter interface {
	// Mount makes the directory if need be; made tells whether it did. No other file system may be hidden: that is the caller's affair.
	Mount(m Mount) (made bool, err error)
	// Unmount fails with ErrBusy if the file system is in use. It removes the directory if remove is set and it is empty.
	Unmount(path string, remove bool) error
	// Files tells whether there are files in a mounted hugetlbfs.
	Files(path string) (bool, error)
}

// ErrBusy says that a file system is in use.
var ErrBusy = errors.New("in use")

// System mounts for real.
type System struct{}

// Mount mounts a hugetlbfs with its page size, its mode and owner if its options say so.
func (System) Mount(m Mount) (made bool, err error) {
	if _, err := os.Stat(m.Path); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(m.Path, 0o755); err != nil {
			return false, fmt.Errorf("directory for hugetlbfs: %w", err)
		}
		made = true
	}
	data := []string{fmt.Sprintf("pagesize=%v", m.Size)}
	for _, o := range strings.Split(m.Options, ",") {
		for _, own := range []string{"mode=", "uid=", "gid=", "size=", "min_size=", "nr_inodes="} {
			if strings.HasPrefix(o, own) {
				data = append(data, o)
			}
		}
	}
	if err := unix.Mount("hugetlbfs", m.Path, "hugetlbfs", 0, strings.Join(data, ",")); err != nil {
		if made {
			_ = os.Remove(m.Path)
		}
		return false, fmt.Errorf("mounting hugetlbfs with pages of %v at %s: %w", m.Size, m.Path, err)
	}
	return made, nil
}

// Unmount unmounts what is on top at a path.
func (System) Unmount(path string, remove bool) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("unmounting %s: %w", path, ErrBusy)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) { // not mounted (any more)
		return fmt.Errorf("unmounting %s: %w", path, err)
	}
	if remove {
		_ = os.Remove(path) // somebody may have put something there
	}
	return nil
}

// Files looks for files at any depth: libvirt makes directories of its own, which are no use of pages.
func (System) Files(path string) (bool, error) {
	found := errors.New("found")
	err := filepath.WalkDir(path, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = found
		}
		return err
	})
	if errors.Is(err, found) {
		return true, nil
	}
	return false, err
}
