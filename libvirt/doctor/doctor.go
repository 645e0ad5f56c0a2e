// Package doctor looks at a host, and at one domain of it, for what keeps packets from flowing, and suggests a fix for each.
//
// A check reads the system through Env only: files, libvirt, switchd, commands. None of them changes anything.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status is what a check found.
type Status string

// What a check can find. Unknown is neither good nor bad: the Detail says why there is no result.
const (
	OK            Status = "ok"
	Warn          Status = "warn"
	Fail          Status = "fail"
	Unknown       Status = "unknown"
	NotApplicable Status = "not-applicable"
)

var severity = map[Status]int{NotApplicable: 0, OK: 1, Unknown: 2, Warn: 3, Fail: 4}

// Scope is what a check is about.
type Scope string

// A check of the domain runs only where one is named.
const (
	Host   Scope = "host"
	Domain Scope = "domain"
)

// Check is one question.
type Check struct {
	ID    string // stable, for scripts
	Group string
	Title string // what is true when it is well
	Scope Scope
	Run   func(context.Context, *Env) Result
}

// Result is the answer.
type Result struct {
	Status Status
	Detail string // what was seen
	Fix    string // commands or edits to paste, a line each; empty where nothing is to be done
	Source string // where it was seen
}

// Finding is a result with its question, as it is printed and as JSON gives it.
type Finding struct {
	ID     string `json:"id"`
	Group  string `json:"group"`
	Title  string `json:"title"`
	Scope  Scope  `json:"scope"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
	Source string `json:"source,omitempty"`
}

// Report is the outcome of all checks. Fields are added, never changed or removed.
type Report struct {
	Domain string         `json:"domain,omitempty"`
	Status Status         `json:"status"` // ok, warn or fail
	Counts map[Status]int `json:"counts"`
	Checks []Finding      `json:"checks"`
}

// ExitCode is 0 without problems, 1 with warnings or checks without a result, 2 with failures.
func (r Report) ExitCode() int {
	switch r.Status {
	case OK:
		return 0
	case Fail:
		return 2
	}
	return 1
}

// checkTimeout bounds one check: an answer that hangs (a dead socket, a stuck command) must not hide the others.
const checkTimeout = 20 * time.Second

// Examine runs the checks in their order; those of the domain only where env names one.
func Examine(ctx context.Context, env *Env, checks []Check) Report {
	report := Report{Domain: env.Domain, Status: OK, Counts: map[Status]int{}, Checks: []Finding{}}
	for _, c := range checks {
		if c.Scope == Domain && env.Domain == "" {
			continue
		}
		r := runOne(ctx, env, c)
		report.Counts[r.Status]++
		report.Checks = append(report.Checks, Finding{c.ID, c.Group, c.Title, c.Scope, r.Status, r.Detail, r.Fix, r.Source})
		switch {
		case r.Status == Fail:
			report.Status = Fail
		case (r.Status == Warn || r.Status == Unknown) && report.Status == OK:
			report.Status = Warn
		}
	}
	return report
}

// runOne contains a check: what one of them did not expect costs that answer only.
func runOne(ctx context.Context, env *Env, c Check) (r Result) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			r = Result{Status: Unknown, Detail: fmt.Sprintf("the check itself failed: %v", p)}
		}
	}()
	if ctx.Err() != nil {
		return unknown("interrupted")
	}
	return c.Run(ctx, env)
}

// Checks are all of them, in the order of printing: what others stand on comes first.
func Checks() []Check {
	var all []Check
	for _, group := range [][]Check{
		kernelChecks(), hugepageChecks(), libvirtChecks(), wrapperChecks(), securityChecks(), switchdChecks(),
		domainChecks(), memoryChecks(), interfaceChecks(), portChecks(),
	} {
		all = append(all, group...)
	}
	return all
}

// Select picks checks by their identifiers, in the order of Checks. None given is all of them.
func Select(ids []string) ([]Check, error) {
	all := Checks()
	if len(ids) == 0 {
		return all, nil
	}
	var picked []Check
	known := map[string]bool{}
	for _, c := range all {
		known[c.ID] = true
		if slices.Contains(ids, c.ID) {
			picked = append(picked, c)
		}
	}
	for _, id := range ids {
		if !known[id] {
			return nil, fmt.Errorf("no check is called %q (vhostctl doctor --list shows them)", id)
		}
	}
	return picked, nil
}

func ok(format string, args ...any) Result {
	return Result{Status: OK, Detail: fmt.Sprintf(format, args...)}
}
func unknown(format string, args ...any) Result {
	return Result{Status: Unknown, Detail: fmt.Sprintf(format, args...)}
}
func notApplicable(format string, args ...any) Result {
	return Result{Status: NotApplicable, Detail: fmt.Sprintf(format, args...)}
}
func warn(fix, format string, args ...any) Result {
	return Result{Status: Warn, Fix: fix, Detail: fmt.Sprintf(format, args...)}
}
func fail(fix, format string, args ...any) Result {
	return Result{Status: Fail, Fix: fix, Detail: fmt.Sprintf(format, args...)}
}

// from names where the facts come from.
func (r Result) from(source string) Result {
	r.Source = source
	return r
}

// merge puts several answers to one question together: the worst status counts, and only what is that bad or worse than ok is told.
func merge(results ...Result) Result {
	if len(results) == 0 {
		return notApplicable("nothing to check")
	}
	worst := NotApplicable
	for _, r := range results {
		if severity[r.Status] > severity[worst] {
			worst = r.Status
		}
	}
	var details, fixes, sources []string
	add := func(list *[]string, s string) {
		for _, have := range *list {
			if have == s {
				return
			}
		}
		if s != "" {
			*list = append(*list, s)
		}
	}
	for _, r := range results {
		if severity[worst] > severity[OK] && severity[r.Status] <= severity[OK] {
			continue
		}
		add(&details, r.Detail)
		add(&fixes, r.Fix)
		add(&sources, r.Source)
	}
	return Result{worst, strings.Join(details, "; "), strings.Join(fixes, "\n"), strings.Join(sources, ", ")}
}
