package main

import (
	"slices"
	"testing"
)

// TestListsOnTheCommandLine: a list may be written with commas, as an option that is given several times, or both.
func TestListsOnTheCommandLine(t *testing.T) {
	c, _, err := parseOptions([]string{"--config", "/dev/null", "--device", "/dev/a, /dev/b", "--device", "/dev/c"})
	if want := []string{"/dev/a", "/dev/b", "/dev/c"}; err != nil || !slices.Equal(c.Devices, want) {
		t.Errorf("%q, %v; want %q", c.Devices, err, want)
	}
}
