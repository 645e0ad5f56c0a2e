package sysedit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
)

// manifest is what is remembered of a name: manifest.json beside the originals.
type manifest struct {
	Name    string    `json:"name"`
	Changed time.Time `json:"changed"`
	Files   []entry   `json:"files"`
}

// entry is one file: where its original is, and how it was left.
type entry struct {
	Path     string      `json:"path"`
	Original string      `json:"original,omitempty"` // file beside the manifest; empty: there was none
	Mode     fs.FileMode `json:"mode,omitempty"`     // of the original
	UID      int         `json:"uid"`
	GID      int         `json:"gid"`
	Written  string      `json:"written,omitempty"` // SHA-256 of what was written; empty: removed
	Before   string      `json:"before,omitempty"`  // the same of what was there at the last application
}

func digest(f found) string {
	if !f.exists {
		return ""
	}
	sum := sha256.Sum256(f.content)
	return hex.EncodeToString(sum[:])
}

func (s Store) manifestPath(name string) string { return filepath.Join(s.dir(name), "manifest.json") }

func (s Store) load(name string) (*manifest, error) {
	data, err := os.ReadFile(s.manifestPath(name))
	if errors.Is(err, os.ErrNotExist) {
		return &manifest{Name: name}, nil
	}
	if err != nil {
		return nil, err
	}
	m := &manifest{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; the originals are beside it", s.manifestPath(name), err)
	}
	for _, e := range m.Files {
		if e.Original != "" && filepath.Base(e.Original) != e.Original {
			return nil, fmt.Errorf("%s is damaged: original %q", s.manifestPath(name), e.Original)
		}
	}
	return m, nil
}

func (s Store) save(name string, m *manifest) error {
	m.Changed = time.Now().UTC().Truncate(time.Second)
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return s.keep(s.manifestPath(name), append(data, '\n'))
}

// keep writes a file of the store's own.
func (s Store) keep(path string, content []byte) error {
	return s.put(path, found{true, content, 0o600, os.Geteuid(), os.Getegid()})
}

// remember stores the originals of files that are not in the manifest yet, and what will be written.
func (s Store) remember(name string, changes []change) error {
	m, err := s.load(name)
	if err != nil {
		return err
	}
	for _, c := range changes {
		e := m.entry(c.path)
		if e == nil {
			m.Files = append(m.Files, entry{Path: c.path})
			e = &m.Files[len(m.Files)-1]
			if c.old.exists {
				e.Original = fmt.Sprintf("%d%s", len(m.Files), strings.ReplaceAll(c.path, "/", "_"))
				e.Mode, e.UID, e.GID = c.old.mode, c.old.uid, c.old.gid
				if err := s.keep(filepath.Join(s.dir(name), e.Original), c.old.content); err != nil {
					return fmt.Errorf("backing up %s: %w", c.path, err)
				}
			}
		}
		e.Before, e.Written = digest(c.old), digest(c.new)
	}
	return s.save(name, m)
}

func (m *manifest) entry(path string) *entry {
	for i := range m.Files {
		if m.Files[i].Path == path {
			return &m.Files[i]
		}
	}
	return nil
}

// settle corrects the manifest after a roll-back: what is there was written before, or nothing was.
func (s Store) settle(name string) error {
	m, err := s.load(name)
	if err != nil {
		return err
	}
	keep := m.Files[:0]
	for _, e := range m.Files {
		now, original, err := s.compare(name, e)
		if err != nil {
			return err
		}
		if !(change{old: now, new: original}).none() {
			e.Written = digest(now)
			keep = append(keep, e)
		}
	}
	if m.Files = keep; len(keep) == 0 {
		return s.forget(name)
	}
	return s.save(name, m)
}

// compare reads a file as it is, and its original.
func (s Store) compare(name string, e entry) (now, original found, err error) {
	real, err := s.real(e.Path)
	if err != nil {
		return
	}
	if now, err = look(real); err != nil || e.Original == "" {
		return
	}
	content, err := os.ReadFile(filepath.Join(s.dir(name), e.Original))
	if err != nil {
		return now, original, fmt.Errorf("the original of %s: %w", e.Path, err)
	}
	return now, found{true, content, e.Mode, e.UID, e.GID}, nil
}

// forget removes a name's manifest, then its originals.
func (s Store) forget(name string) error {
	if err := s.put(s.manifestPath(name), found{}); err != nil {
		return err
	}
	return os.RemoveAll(s.dir(name))
}

// Applied tells whether there is something to undo under the name.
func (s Store) Applied(name string) (bool, error) {
	m, err := s.load(name)
	return err == nil && len(m.Files) > 0, err
}

// Undo plans the way back to the originals. Files that are neither as they were left nor as they were before are named in an error that
// wraps ErrChanged, unless force is set. There is nothing to do: ErrNothing.
func (s Store) Undo(name string, force bool) (*Plan, error) {
	m, err := s.load(name)
	if err != nil {
		return nil, err
	}
	if len(m.Files) == 0 {
		return nil, fmt.Errorf("%w: %s was not applied, or was undone already", ErrNothing, name)
	}
	p := &Plan{store: s, name: name, undo: true}
	changed := &multierror.Error{ErrorFormat: joinLines}
	for _, e := range m.Files {
		now, original, err := s.compare(name, e)
		if err != nil {
			return nil, err
		}
		// Before counts too: an application that was cut off may not have reached the file.
		if is := digest(now); !force && is != e.Written && is != e.Before && is != digest(original) {
			changed = multierror.Append(changed, fmt.Errorf("%s: %w", e.Path, ErrChanged))
			continue
		}
		real, err := s.real(e.Path)
		if err != nil {
			return nil, err
		}
		if c := (change{path: e.Path, real: real, old: now, new: original}); !c.none() {
			p.changes = append(p.changes, c)
		}
	}
	return p, changed.ErrorOrNil()
}

func joinLines(list []error) string {
	lines := make([]string, len(list))
	for i, err := range list {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "; ")
}
