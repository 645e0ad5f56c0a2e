package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"unicode/utf8"
)

// untidyModule runs "go mod tidy -diff" and gives what it would change, as one finding.
func untidyModule(root string) ([]string, error) {
	cmd := exec.Command("go", "mod", "tidy", "-diff")
	cmd.Dir = root
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	switch {
	case err == nil:
		return nil, nil
	case len(out) > 0:
		return []string{"go.mod: run go mod tidy (tidy):\n" + strings.TrimSpace(string(out))}, nil
	}
	return nil, fmt.Errorf("go mod tidy -diff: %w: %s", err, strings.TrimSpace(said.String()))
}

// maxSubject is how long a commit's first line may be, in characters.
const maxSubject = 72

// badCommits finds commits since base whose subject is too long, or that do not say why.
func badCommits(root, base string) (findings []string, err error) {
	cmd := exec.Command("git", "log", "--reverse", "--no-merges", "--format=%h%x00%s%x00%b%x01", base+"..HEAD")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("list the commits since %s: %w", base, err)
	}
	for entry := range strings.SplitSeq(string(out), "\x01") {
		part := strings.SplitN(strings.TrimSpace(entry), "\x00", 3)
		if len(part) < 3 {
			continue
		}
		if n := utf8.RuneCountInString(part[1]); n > maxSubject {
			findings = append(findings, fmt.Sprintf("%s: the subject has %d characters, more than %d: %s", part[0], n, maxSubject, part[1]))
		}
		if strings.TrimSpace(part[2]) == "" {
			findings = append(findings, fmt.Sprintf("%s: no body says why, and how it was proven: %s", part[0], part[1]))
		}
	}
	return findings, nil
}
