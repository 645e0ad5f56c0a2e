// Package change is the one way in which vhostctl changes something: it shows what will be done, asks, does it and tells the outcome.
// The commands differ in what they change only. It knows no command line, so it is tested without one.
package change

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"vhostkit/internal/sysedit"
)

// Errors that callers test.
var (
	// ErrUnconfirmed says that there is nobody who could confirm: the command line lacks an option.
	ErrUnconfirmed = errors.New("use --yes to apply or --dry-run to preview")
	// ErrDeclined says that the answer was not yes.
	ErrDeclined = errors.New("nothing was changed")
)

// Change is something that a command is about to change.
type Change struct {
	// Empty tells that there is nothing to do. Then nothing is asked, and Apply is not called unless Record is set.
	Empty bool
	// Record wants Apply to be called for an empty change, too: it notes what was asked for. A lack of rights to do so is no failure then.
	Record bool
	// Unasked wants no confirmation.
	Unasked bool
	// Show writes what will be done, or that there is nothing to do.
	Show func(io.Writer)
	// Apply does it. progress takes a line for each step.
	Apply func(ctx context.Context, progress func(line string)) error
	// Report writes what there is to say at the end. applied is false after a preview and for an empty change.
	Report func(w io.Writer, applied bool)
	// Result is what scripts get instead of all texts, as JSON.
	Result func(applied bool) any
}

// Terminal is whom the change is shown to.
type Terminal struct {
	In  io.Reader
	Out io.Writer
	// Interactive tells that somebody can answer at In.
	Interactive bool
}

// Options are the user's.
type Options struct {
	DryRun bool // show only
	Yes    bool // do not ask
	JSON   bool // for scripts: no texts, nothing is asked
}

// Run takes a change through all of its steps.
func (t Terminal) Run(ctx context.Context, c Change, o Options) error {
	if !o.JSON {
		c.Show(t.Out)
	}
	applied := false
	if !o.DryRun && (!c.Empty || c.Record) {
		if err := t.apply(ctx, c, o); err != nil {
			return Explain(err)
		}
		applied = !c.Empty
	}
	if o.JSON {
		encoder := json.NewEncoder(t.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(c.Result(applied))
	}
	c.Report(t.Out, applied)
	return nil
}

func (t Terminal) apply(ctx context.Context, c Change, o Options) error {
	if !c.Empty && !c.Unasked {
		if err := t.confirm(o); err != nil {
			return err
		}
	}
	err := c.Apply(ctx, func(line string) {
		if !o.JSON {
			fmt.Fprintln(t.Out, line)
		}
	})
	if c.Empty && errors.Is(err, os.ErrPermission) {
		return nil
	}
	return err
}

// confirm asks before something is changed.
func (t Terminal) confirm(o Options) error {
	switch {
	case o.Yes:
		return nil
	case o.JSON:
		return fmt.Errorf("-o json does not ask: %w", ErrUnconfirmed)
	case !t.Interactive:
		return fmt.Errorf("stdin is not a terminal: %w", ErrUnconfirmed)
	}
	fmt.Fprint(t.Out, "Apply these changes? [y/N] ")
	answer, err := bufio.NewReader(t.In).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return ErrDeclined
	}
	return nil
}

// Explain adds to an error what the user can do about it.
func Explain(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w (try sudo)", err)
	case errors.Is(err, sysedit.ErrChanged):
		return fmt.Errorf("%w (undo --force reverts such files, too)", err)
	}
	return err
}
