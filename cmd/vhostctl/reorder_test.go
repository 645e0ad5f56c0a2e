package main

import (
	"slices"
	"strings"
	"testing"
)

func TestReorder(t *testing.T) {
	for in, want := range map[string]string{
		"vhostctl ports -o json":                           "vhostctl ports -o json",
		"vhostctl port show 0 -o json":                     "vhostctl port show -o json 0",
		"vhostctl --control /x port add vm1 --control=/y":  "vhostctl --control /x port add --control=/y vm1",
		"vhostctl attach vm1 --dry-run --interface net0 x": "vhostctl attach --dry-run --interface net0 vm1 x",
		"vhostctl attach -- vm1 --dry-run":                 "vhostctl attach -- vm1 --dry-run",
		"vhostctl port add port":                           "vhostctl port add port",
		"vhostctl":                                         "vhostctl",
		"vhostctl attach vm1 --interface":                  "vhostctl attach vm1 --interface",
		"vhostctl attach vm1 --nonsense":                   "vhostctl attach --nonsense vm1",
	} {
		if got := reorder(newApp(), strings.Fields(in)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s becomes %q, want %s", in, got, want)
		}
	}
}
