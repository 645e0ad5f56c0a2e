package config

import (
	"slices"
	"strings"
	"testing"
)

// TestBackendNames: what --dev-basename means for each backend, on the old command line.
func TestBackendNames(t *testing.T) {
	tests := []struct {
		line             string
		sockets, devices []string
	}{
		{"-- --dev-basename usvhost", []string{"usvhost"}, nil},
		{"-- --dev-basename usvhost --backend cuse", nil, []string{"/dev/usvhost"}},
		{"-- --backend=cuse --dev-basename a --dev-basename b", nil, []string{"/dev/a", "/dev/b"}},
		{"-- --backend cuse", nil, []string{"/dev/vhost-net"}},
		{"-- --backend both --dev-basename usvhost", []string{"usvhost"}, []string{"/dev/usvhost"}},
		{"-- --backend both --dev-basename run/usvhost --socket-file x", []string{"run/usvhost", "x"}, []string{"/dev/usvhost"}},
		{"-- --backend cuse --dev-basename usvhost --socket-file x", []string{"x"}, []string{"/dev/usvhost"}},
		{"-- --dev-basename a --dev-basename b", []string{"b"}, nil},
	}
	for _, test := range tests {
		c, err := parseLegacy(test.line)
		if err == nil {
			err = c.Validate()
		}
		if err != nil || !slices.Equal(c.SocketFiles, test.sockets) || !slices.Equal(c.CUSEPaths(), test.devices) {
			t.Errorf("%s: sockets %q, devices %q, error %v; want %q, %q", test.line, c.SocketFiles, c.CUSEPaths(), err, test.sockets, test.devices)
		}
	}
}

func TestCheckCUSE(t *testing.T) {
	for name, test := range map[string]struct {
		set  func(*Config)
		want string // part of the error; empty: none
	}{
		"plain":          {func(*Config) {}, ""},
		"unknown":        {func(c *Config) { c.Backend = "fuse" }, "--backend"},
		"no name":        {func(c *Config) { c.CUSEDevices = nil }, "--dev-basename"},
		"path":           {func(c *Config) { c.CUSEDevices = []string{"../shm/x"} }, "--dev-basename"},
		"twice":          {func(c *Config) { c.CUSEDevices = []string{"a", "a"} }, "a different name each time"},
		"mode":           {func(c *Config) { c.CUSEMode = "rw" }, "--cuse-mode"},
		"not used":       {func(c *Config) { c.Backend, c.CUSEDevices = "vhost-user", nil }, ""},
		"mode, not used": {func(c *Config) { c.Backend, c.CUSEMode = "vhost-user", "8" }, "--cuse-mode"},
	} {
		c := DefaultConfig()
		c.Backend, c.CUSEDevices = "cuse", []string{"usvhost"}
		test.set(&c)
		switch err := c.Validate(); {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: error %v, want one about %s", name, err, test.want)
		}
	}
}
