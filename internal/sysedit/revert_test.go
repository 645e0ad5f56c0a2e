package sysedit

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestRevert(t *testing.T) {
	s := tree(t, before)
	was := snapshot(t, s)
	p := mustPlan(t, s, edits()...)
	if err := errors.Join(p.Apply(), p.Revert()); err != nil {
		t.Fatal(err)
	}
	if is := snapshot(t, s); !maps.Equal(is, was) {
		t.Fatalf("after a revert: %q, want %q", is, was)
	}
	if ok, err := s.Applied("test"); ok || err != nil {
		t.Fatalf("something is left to undo: %v %v", ok, err)
	}

	// A second application is reverted to the first, which can still be undone.
	if err := mustPlan(t, s, edits()...).Apply(); err != nil {
		t.Fatal(err)
	}
	first := snapshot(t, s)
	second := mustPlan(t, s, File{Path: "/etc/a", Content: []byte("again")}, File{Path: "/etc/more", Content: []byte("more"), UID: -1, GID: -1})
	if err := errors.Join(second.Apply(), second.Revert()); err != nil {
		t.Fatal(err)
	}
	if is := snapshot(t, s); !maps.Equal(is, first) {
		t.Fatalf("after a second revert: %q, want %q", is, first)
	}
	undo, err := s.Undo("test", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := undo.Apply(); err != nil {
		t.Fatal(err)
	}
	if is := snapshot(t, s); !maps.Equal(is, was) {
		t.Fatalf("after undo: %q, want %q", is, was)
	}
}

func TestRevertLeavesWhatOthersChanged(t *testing.T) {
	s := tree(t, before)
	p := mustPlan(t, s, edits()...)
	if err := p.Apply(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Root, "etc/a"), []byte("by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Revert(); !errors.Is(err, ErrChanged) {
		t.Fatalf("revert of a changed file: %v", err)
	}
}
