package logging

import (
	"context"
	"log/slog"
	"strconv"
)

// handler passes on the records that the budgets allow, as they are.
type handler struct {
	next    slog.Handler
	budgets *budgets
	about   subject
	grouped bool // attributes from here on are inside a group and say nothing about the subject
}

// subject is what a record is about, by its attributes.
type subject struct {
	port      key // kindRest: none
	addresses bool
	socket    string
}

func noSubject() subject { return subject{port: key{kind: kindRest}} }

// add looks at an attribute.
func (s *subject) add(a slog.Attr) {
	switch a.Key {
	case "port":
		s.port = key{kind: kindPort}
		v := a.Value.Resolve()
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil { // of whatever type
			s.port.port = n
		} else {
			s.port.path = v.String()
		}
	case "socket", "device":
		s.socket = a.Value.Resolve().String()
	case "mac":
		s.addresses = true
	}
}

// keys are the budgets that a record is taken out of, the one that it counts for first.
func (s *subject) keys() []key {
	switch own := s.port; {
	case own.kind == kindPort:
		if s.addresses {
			own.kind = kindAddresses
		}
		if s.socket == "" {
			return []key{own, {kind: kindAll}}
		}
		return []key{own, {kind: kindShared, path: s.socket}, {kind: kindAll}}
	case s.socket != "":
		return []key{{kind: kindSocket, path: s.socket}, {kind: kindAll}}
	}
	return []key{{kind: kindRest}, {kind: kindAll}}
}

func classOf(level slog.Level) class {
	switch {
	case level >= slog.LevelWarn:
		return classUrgent
	case level >= slog.LevelInfo:
		return classNormal
	}
	return classDetail
}

// Enabled is the next handler's.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle writes the record or counts it.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	about := h.about
	if !h.grouped {
		r.Attrs(func(a slog.Attr) bool {
			about.add(a)
			return true
		})
	}
	if !h.budgets.allow(classOf(r.Level), about.keys()...) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs remembers what the attributes say about the subject.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.next = h.next.WithAttrs(attrs)
	for i := 0; i < len(attrs) && !h.grouped; i++ {
		c.about.add(attrs[i])
	}
	return &c
}

// WithGroup opens a group.
func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.next, c.grouped = h.next.WithGroup(name), true
	return &c
}
