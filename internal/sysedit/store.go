package sysedit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// DefaultState is where manifests and originals are kept.
const DefaultState = "/var/lib/vhostkit/edits"

// File is what a path shall hold.
type File struct {
	Path    string // absolute
	Content []byte
	Remove  bool        // the file shall not be there
	Mode    fs.FileMode // permission bits of a new file; 0 is 0644
	UID     int         // owner of a new file; -1 is the process's own
	GID     int
	// ForceMode gives mode and owner to an existing file too. Otherwise it keeps its own.
	ForceMode bool
}

// Store says where the system is, and where to remember what was done to it. The zero value is the running system.
type Store struct {
	Root  string // put before each path
	State string // below Root; empty is DefaultState
	// Step, if set, is called before each step that changes the file system, with its name. An error stops there as a crash would:
	// nothing is cleaned up. It is there for tests that crash between the steps.
	Step func(name string) error
}

var planName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// real is the path in the file system of this process, with symbolic links followed: an edit changes what a link points to.
func (s Store) real(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%s: want an absolute path", path)
	}
	full := filepath.Join(s.Root, path)
	resolved, err := filepath.EvalSymlinks(full)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		if info, err := os.Lstat(full); err == nil && info.Mode()&os.ModeSymlink != 0 {
			return "", fmt.Errorf("%s is a symbolic link to nothing: make what it points to, or remove it", full)
		}
		return full, nil
	case err != nil:
		return "", fmt.Errorf("following %s: %w", full, err)
	}
	if s.Root != "" {
		root, err := filepath.EvalSymlinks(s.Root)
		if err != nil {
			return "", err
		}
		if inside, err := filepath.Rel(root, resolved); err != nil || !filepath.IsLocal(inside) {
			return "", fmt.Errorf("%s leads out of %s by a symbolic link", full, s.Root)
		}
	}
	return resolved, nil
}

func (s Store) dir(name string) string {
	state := s.State
	if state == "" {
		state = DefaultState
	}
	return filepath.Join(s.Root, state, name)
}

func (s Store) step(name string) error {
	if s.Step == nil {
		return nil
	}
	return s.Step(name)
}

// found is a file as it is.
type found struct {
	exists   bool
	content  []byte
	mode     fs.FileMode
	uid, gid int
}

func look(path string) (found, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return found{}, nil
	}
	if err != nil {
		return found{}, fmt.Errorf("reading %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return found{}, fmt.Errorf("%s is not a regular file", path)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return found{}, err
	}
	return found{true, content, fs.FileMode(st.Mode & 0o7777), int(st.Uid), int(st.Gid)}, nil
}

// Plan looks at the files and keeps those that are not yet as they shall be. name is the manifest's: lower-case letters, digits, dashes.
func (s Store) Plan(name string, files ...File) (*Plan, error) {
	if !planName.MatchString(name) {
		return nil, fmt.Errorf("plan name %q: want lower-case letters, digits and dashes", name)
	}
	p := &Plan{store: s, name: name}
	seen := map[string]bool{}
	for _, f := range files {
		real, err := s.real(f.Path)
		if err != nil {
			return nil, err
		}
		if seen[real] {
			return nil, fmt.Errorf("%s is in the plan twice", f.Path)
		}
		seen[real] = true
		old, err := look(real)
		if err != nil {
			return nil, err
		}
		if c := newChange(f, real, old); !c.none() {
			p.changes = append(p.changes, c)
		}
	}
	return p, nil
}

// change is one file of a plan. The file mode bits here are the kernel's (04000 is setuid), not Go's.
type change struct {
	path, real string
	old, new   found
}

func newChange(f File, real string, old found) change {
	c := change{path: filepath.Clean(f.Path), real: real, old: old}
	if f.Remove {
		return c
	}
	c.new = found{exists: true, content: f.Content, mode: f.Mode, uid: f.UID, gid: f.GID}
	if c.new.mode == 0 {
		c.new.mode = 0o644
	}
	if old.exists && !f.ForceMode {
		c.new.mode, c.new.uid, c.new.gid = old.mode, old.uid, old.gid
		return c
	}
	if c.new.uid < 0 {
		c.new.uid = os.Geteuid()
	}
	if c.new.gid < 0 {
		c.new.gid = os.Getegid()
	}
	return c
}

func (c change) none() bool {
	o, n := c.old, c.new
	if o.exists != n.exists || !o.exists {
		return o.exists == n.exists
	}
	return o.mode == n.mode && o.uid == n.uid && o.gid == n.gid && bytes.Equal(o.content, n.content)
}
