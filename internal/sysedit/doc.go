// Package sysedit changes files of the system the way an operator wants it done: all of a plan's files or none, each one replaced in one
// step, the originals kept, a diff to look at before, and an undo that gives every byte back.
//
// What a plan wrote is remembered under its name in the store's state directory: a manifest (JSON), and the originals as they were before
// the first application. Applying the same name again keeps the oldest originals, so that an undo goes back to the system as it was found.
package sysedit

import "errors"

// Errors that callers test.
var (
	// ErrChanged says that a file is not as it was left: somebody changed it since. Undo with force overrides it.
	ErrChanged = errors.New("edited since vhostctl wrote it")
	// ErrNothing says that there is nothing to undo under that name.
	ErrNothing = errors.New("nothing to undo")
	// ErrBusy says that another process is changing files under the same state directory.
	ErrBusy = errors.New("another vhostctl is changing files")
)
