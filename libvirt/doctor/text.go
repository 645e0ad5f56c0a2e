package doctor

import (
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Colours of a status on a terminal (ECMA-48).
var colours = map[Status]string{OK: "\x1b[32m", Warn: "\x1b[33m", Fail: "\x1b[31m", Unknown: "\x1b[35m", NotApplicable: "\x1b[2m"}

var words = map[Status]string{OK: "ok", Warn: "WARN", Fail: "FAIL", Unknown: "?", NotApplicable: "-"}

// Write prints a report: a line a check, then what to do. all also shows checks that do not apply.
func Write(w io.Writer, r Report, colour, all bool) {
	paint := func(s Status, text string) string {
		if !colour {
			return text
		}
		return colours[s] + text + "\x1b[0m"
	}
	width, hidden := 0, 0
	for _, c := range r.Checks {
		width = max(width, len([]rune(c.Title)))
	}
	group := ""
	for _, c := range r.Checks {
		if c.Status == NotApplicable && !all {
			hidden++
			continue
		}
		if c.Group != group {
			group = c.Group
			fmt.Fprintf(w, "%s\n", group)
		}
		fmt.Fprintf(w, "  %s  %-*s  %s\n", paint(c.Status, fmt.Sprintf("%-4s", words[c.Status])), width, c.Title, Plain(c.Detail))
	}
	writeFixes(w, r, paint)
	fmt.Fprintf(w, "\n%s (%d ok, %d failed, %d warnings, %d unknown", paint(r.Status, summary(r)), r.Counts[OK], r.Counts[Fail],
		r.Counts[Warn], r.Counts[Unknown])
	if hidden > 0 {
		fmt.Fprintf(w, ", %d skipped; --all lists them", hidden)
	}
	fmt.Fprintln(w, ")")
}

// summary tells the worst of what was found.
func summary(r Report) string {
	where := "on this host"
	if r.Domain != "" {
		where = "for domain " + Plain(r.Domain) + " and this host"
	}
	switch r.Status {
	case Fail:
		return count(r.Counts[Fail], "problem") + " found " + where
	case Warn:
		return count(r.Counts[Warn], "warning") + " " + where
	case Unknown:
		return count(r.Counts[Unknown], "check") + " without a result " + where
	}
	return "no problems found " + where
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func writeFixes(w io.Writer, r Report, paint func(Status, string) string) {
	first := true
	for _, c := range r.Checks {
		if c.Fix == "" {
			continue
		}
		if first {
			fmt.Fprint(w, "\nwhat to do\n")
			first = false
		}
		fmt.Fprintf(w, "  %s %s\n", paint(c.Status, words[c.Status]), c.ID)
		for _, line := range strings.Split(c.Fix, "\n") {
			fmt.Fprintf(w, "      %s\n", Plain(line))
		}
	}
}

// Plain shows a text whose parts may come from a guest or its owner: what could steer a terminal is replaced.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
