package boot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"vhostkit/hugepages/kernelargs"
)

const kernelstubConfig = "/etc/kernelstub/configuration"

// command plans for systems whose command line is changed by a program alone.
func (h Host) command(ctx context.Context, kind Kind, w kernelargs.Wanted) (Plan, error) {
	line, err := h.line(ctx, kind)
	if err != nil {
		return Plan{}, fmt.Errorf("reading the kernel's command line by %s: %w", kind, err)
	}
	change, err := kernelargs.Plan(line, w)
	if err != nil || change.Empty() {
		return Plan{}, err
	}
	before, after := kernelargs.Parameters(line), kernelargs.Parameters(change.Apply(line))
	return Plan{Before: before, Commands: replace(kind, line, before, after), Revert: replace(kind, change.Apply(line), after, before)}, nil
}

// Restore are the commands that give a command line its earlier parameters about hugepages.
func (h Host) Restore(ctx context.Context, kind Kind, before []string) ([][]string, error) {
	switch kind {
	case GRUB:
		return h.generators()
	case SystemdBoot:
		if h.Runner.Has("sdbootutil") {
			return [][]string{{"sdbootutil", "update-all-entries"}}, nil
		}
		if len(h.entries()) == 0 && h.Runner.Has("kernel-install") {
			return [][]string{{"kernel-install", "add", h.Release, "/lib/modules/" + h.Release + "/vmlinuz"}}, nil
		}
		return nil, nil
	}
	line, err := h.line(ctx, kind)
	if err != nil {
		return nil, err
	}
	now := kernelargs.Parameters(line)
	if slices.Equal(now, before) {
		return nil, nil
	}
	return replace(kind, line, now, before), nil
}

// line asks for the command line of the next boot.
func (h Host) line(ctx context.Context, kind Kind) (string, error) {
	switch kind {
	case OSTree:
		return h.Runner.Run(ctx, "rpm-ostree", "kargs")
	case Grubby:
		text, err := h.Runner.Run(ctx, "grubby", "--info=DEFAULT")
		for l := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(l), "args="); ok {
				return strings.TrimSuffix(strings.TrimPrefix(value, `"`), `"`), err
			}
		}
		if err == nil {
			err = fmt.Errorf("grubby --info=DEFAULT names no args")
		}
		return "", err
	}
	content, err := h.read(kernelstubConfig)
	if err != nil {
		return "", err
	}
	var config struct {
		User struct {
			Options []string `json:"kernel_options"`
		} `json:"user"`
	}
	if err := json.Unmarshal(content, &config); err != nil {
		return "", fmt.Errorf("%s: %w", kernelstubConfig, err)
	}
	return strings.Join(config.User.Options, " "), nil
}

// replace writes the commands that take out some parameters and put others in their place. All are given again, in order: these programs
// keep no pairs together by themselves.
func replace(kind Kind, line string, from, to []string) [][]string {
	switch kind {
	case OSTree:
		argv := []string{"rpm-ostree", "kargs"}
		for _, p := range from {
			argv = append(argv, "--delete="+p)
		}
		for _, p := range to {
			argv = append(argv, "--append="+p)
		}
		return [][]string{argv}
	case Grubby:
		argv := []string{"grubby", "--update-kernel=ALL"}
		if len(from) > 0 {
			argv = append(argv, "--remove-args=default_hugepagesz hugepagesz hugepages")
		}
		if len(to) > 0 {
			argv = append(argv, "--args="+strings.Join(to, " "))
		}
		return [][]string{argv}
	}
	rest := slices.DeleteFunc(strings.Fields(line), func(p string) bool { return slices.Contains(from, p) })
	return [][]string{{"kernelstub", "-o", strings.Join(append(rest, to...), " ")}}
}
