package sysedit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"vhostkit/internal/atomicfile"
)

// Plan is a set of changes that are made together.
type Plan struct {
	store   Store
	name    string
	changes []change
	undo    bool // Apply removes the manifest instead of writing it
}

// Empty tells that everything is already as it shall be.
func (p *Plan) Empty() bool { return len(p.changes) == 0 && !p.undo }

// Paths are the files that Apply will change.
func (p *Plan) Paths() []string {
	var list []string
	for _, c := range p.changes {
		list = append(list, c.path)
	}
	return list
}

// Apply makes the changes. The originals and the manifest are safe on disk before the first file changes. When one file fails, those that
// were changed before are put back. A file that somebody changed since the plan was made is not overwritten: ErrChanged.
func (p *Plan) Apply() error {
	if p.Empty() {
		return nil
	}
	unlock, err := p.store.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.expect(func(c change) found { return c.old }, "look at it and run the command again"); err != nil {
		return err
	}
	if !p.undo {
		if err := p.store.remember(p.name, p.changes); err != nil {
			return err
		}
	}
	for i, c := range p.changes {
		if err := p.store.put(c.real, c.new); err != nil {
			if errors.As(err, new(*crash)) {
				return err
			}
			return p.rollBack(p.changes[:i], fmt.Errorf("writing %s: %w", c.path, err))
		}
	}
	if p.undo {
		return p.store.forget(p.name)
	}
	return nil
}

// rollBack puts back what was changed before an error.
func (p *Plan) rollBack(done []change, cause error) error {
	all := multierror.Append(nil, cause)
	for i := len(done) - 1; i >= 0; i-- {
		if err := p.store.put(done[i].real, done[i].old); err != nil {
			all = multierror.Append(all, fmt.Errorf("restoring %s: %w; its original is in %s", done[i].path, err, p.store.dir(p.name)))
		}
	}
	if !p.undo && all.Len() == 1 {
		if err := p.store.settle(p.name); err != nil {
			all = multierror.Append(all, err)
		}
	}
	if all.Len() == 1 {
		return cause
	}
	return all
}

// crash is the error of a Step.
type crash struct{ error }

func (c *crash) Unwrap() error { return c.error }

// put makes a file be what f says, in one step: at each moment the path holds the old or the new.
func (s Store) put(path string, f found) error {
	if !f.exists {
		if err := s.crashable("remove " + path); err != nil {
			return err
		}
		return atomicfile.Remove(path)
	}
	if err := s.crashable("directory of " + path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Replace(path, func(t *os.File) error { return fill(t, path, f) }, s.crashable)
}

func (s Store) crashable(step string) error {
	if err := s.step(step); err != nil {
		return &crash{err}
	}
	return nil
}

// fill writes content, owner, mode and the extended attributes of the file that is replaced.
func fill(t *os.File, path string, f found) error {
	if _, err := t.Write(f.content); err != nil {
		return err
	}
	// The owner first: changing it clears the setuid bits.
	if f.uid != os.Geteuid() || f.gid != os.Getegid() {
		if err := t.Chown(f.uid, f.gid); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(int(t.Fd()), uint32(f.mode)); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	return copyAttributes(t, path)
}

// copyAttributes keeps SELinux labels, ACLs and the like. What the file system refuses is let go.
func copyAttributes(t *os.File, path string) error {
	names := make([]byte, 64<<10)
	n, err := unix.Listxattr(path, names)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("extended attributes: %w", err)
	}
	for _, name := range bytes.Split(bytes.TrimRight(names[:n], "\x00"), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(path, string(name), value)
		if err != nil {
			continue // gone since
		}
		if err := unix.Fsetxattr(int(t.Fd()), string(name), value[:n], 0); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return nil
}

// lock keeps two processes from changing files under one state directory at the same time.
func (s Store) lock() (unlock func(), err error) {
	dir := s.dir("")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w (lock %s)", ErrBusy, f.Name())
	}
	return func() { f.Close() }, nil
}
