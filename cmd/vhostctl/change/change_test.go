package change

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"vhostkit/internal/sysedit"
)

// run takes a change through, and gives what was printed and how often it was applied.
func run(answer string, interactive bool, o Options, edit func(*Change)) (out string, applied int, err error) {
	var b bytes.Buffer
	c := Change{
		Show: func(w io.Writer) { fmt.Fprintln(w, "shown") },
		Apply: func(_ context.Context, progress func(string)) error {
			applied++
			progress("step")
			return nil
		},
		Report: func(w io.Writer, applied bool) { fmt.Fprintln(w, "report", applied) },
		Result: func(applied bool) any { return map[string]bool{"applied": applied} },
	}
	if edit != nil {
		edit(&c)
	}
	t := Terminal{In: strings.NewReader(answer), Out: &b, Interactive: interactive}
	err = t.Run(context.Background(), c, o)
	return b.String(), applied, err
}

func TestRun(t *testing.T) {
	const question = "Apply these changes? [y/N] "
	empty := func(c *Change) { c.Empty = true }
	record := func(c *Change) { c.Empty, c.Record = true, true }
	for _, c := range []struct {
		name        string
		answer      string
		interactive bool
		options     Options
		edit        func(*Change)
		out         string
		applied     int
		err         error
	}{
		{"yes", "y\n", true, Options{}, nil, "shown\n" + question + "step\nreport true\n", 1, nil},
		{"yes in full, without a line's end", "YES", true, Options{}, nil, "shown\n" + question + "step\nreport true\n", 1, nil},
		{"no", "n\n", true, Options{}, nil, "shown\n" + question, 0, ErrDeclined},
		{"no answer", "", true, Options{}, nil, "shown\n" + question, 0, ErrDeclined},
		{"nobody there", "y\n", false, Options{}, nil, "shown\n", 0, ErrUnconfirmed},
		{"--yes", "", false, Options{Yes: true}, nil, "shown\nstep\nreport true\n", 1, nil},
		{"unasked", "", false, Options{}, func(c *Change) { c.Unasked = true }, "shown\nstep\nreport true\n", 1, nil},
		{"--dry-run", "", false, Options{DryRun: true, Yes: true}, nil, "shown\nreport false\n", 0, nil},
		{"nothing to do", "", false, Options{}, empty, "shown\nreport false\n", 0, nil},
		{"nothing to do but to note it", "", false, Options{}, record, "shown\nstep\nreport false\n", 1, nil},
		{"that, previewed", "", false, Options{DryRun: true}, record, "shown\nreport false\n", 0, nil},
		{"JSON", "", false, Options{JSON: true, Yes: true}, nil, "{\n  \"applied\": true\n}\n", 1, nil},
		{"JSON does not ask", "y\n", true, Options{JSON: true}, nil, "", 0, ErrUnconfirmed},
		{"JSON, previewed", "", false, Options{JSON: true, DryRun: true}, nil, "{\n  \"applied\": false\n}\n", 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, applied, err := run(c.answer, c.interactive, c.options, c.edit)
			if out != c.out || applied != c.applied || !errors.Is(err, c.err) {
				t.Errorf("printed %q, applied %d times, %v; want %q, %d, %v", out, applied, err, c.out, c.applied, c.err)
			}
		})
	}
}

// TestErrorsSayWhatToDo: nothing is reported as done, and a lack of rights matters only where there is something to do.
func TestErrorsSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		err  error
		hint string
	}{{os.ErrPermission, "sudo"}, {sysedit.ErrChanged, "--force"}, {errors.New("disk full"), "disk full"}} {
		fail := func(ch *Change) {
			ch.Apply = func(context.Context, func(string)) error { return fmt.Errorf("writing: %w", c.err) }
		}
		out, _, err := run("", false, Options{Yes: true}, fail)
		if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.hint) || strings.Contains(out, "report") {
			t.Errorf("%v: printed %q, %v", c.err, out, err)
		}
		_, _, err = run("", false, Options{}, func(ch *Change) { fail(ch); ch.Empty, ch.Record = true, true })
		if permitted := errors.Is(c.err, os.ErrPermission); permitted != (err == nil) {
			t.Errorf("%v while nothing is to do: %v", c.err, err)
		}
	}
}
