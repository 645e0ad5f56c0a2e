package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"vhostkit/internal/term"
)

// report is what the user sees: one line a step, with what it took.
type report struct {
	w      io.Writer
	colour bool
	begin  time.Time
}

func newReport(f *os.File) *report {
	return &report{w: f, colour: term.Colours(f), begin: time.Now()}
}

func (r *report) paint(code, text string) string {
	if !r.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// step runs one step and prints its line: what was done, what came out, and how long it took.
func (r *report) step(what string, do func() (string, error)) error {
	start := time.Now()
	result, err := do()
	took := fmt.Sprintf("%5.1f s", time.Since(start).Seconds())
	mark := r.paint("32", "ok  ")
	if errors.Is(err, context.Canceled) {
		mark, result = r.paint("33", "stop"), ""
	} else if err != nil {
		mark, result = r.paint("31", "FAIL"), ""
	}
	line := fmt.Sprintf("%s  %s  %s", mark, r.paint("2", took), what)
	if result != "" {
		line += ": " + result
	}
	fmt.Fprintln(r.w, line)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (r *report) note(format string, args ...any) {
	fmt.Fprintf(r.w, "                %s\n", fmt.Sprintf(format, args...))
}

// block prints lines of a program as they are, under a heading.
func (r *report) block(heading, text string) {
	fmt.Fprintf(r.w, "\n%s\n", r.paint("1", heading))
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Fprintf(r.w, "    %s\n", strings.TrimRight(line, "\n"))
	}
}

func (r *report) failed(err error) {
	fmt.Fprintf(r.w, "\n%s %v\n", r.paint("1;31", "demo: failed:"), err)
}

func (r *report) stopped() {
	fmt.Fprintf(r.w, "\n%s everything is put back as it was\n", r.paint("1", "demo: stopped:"))
}

func (r *report) worked(text string) {
	fmt.Fprintf(r.w, "\n%s %s\n", r.paint("1;32", "demo: it worked:"), text)
}

func (r *report) elapsed() time.Duration { return time.Since(r.begin) }
