package qemuwrap

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// DefaultConfigFile is read when it exists.
const DefaultConfigFile = "/etc/vhostkit/qemu-wrap.toml"

// Modes: how a guest reaches the switch.
const (
	ModeVhostUser = "vhost-user"
	ModeCUSE      = "cuse"
)

// Hugepages: whether guests' memory comes from them.
const (
	HugepagesAuto    = "auto"    // where there are enough
	HugepagesRequire = "require" // or the guest does not start
	HugepagesNever   = "never"
)

// Config is what can be set, in the file and in the environment (QEMU_WRAP_ and the name in capitals). The first six have the names and the
// meaning that they had in the script.
type Config struct {
	EmulPath          string `toml:"emul_path"`            // the QEMU to start; empty: the usual names and places
	USVhostPath       string `toml:"us_vhost_path"`        // the vhost-cuse device
	EmulOptsUser      Words  `toml:"emul_opts_user"`       // added to every call that starts a machine
	EmulOptsUserVhost Words  `toml:"emul_opts_user_vhost"` // added when an interface is put on the switch
	UseHugeAll        bool   `toml:"use_huge_all"`         // shared memory from hugepages also where no interface is on the switch
	HugetlbfsDir      string `toml:"hugetlbfs_dir"`        // take the memory from files there instead of a memfd

	Mode       string `toml:"mode"`        // "vhost-user" or "cuse"
	Interfaces Words  `toml:"interfaces"`  // "all", or aliases (net0), netdev ids (hostnet0), MAC addresses
	Hugepages  string `toml:"hugepages"`   // "auto", "require", "never"
	Memory     string `toml:"memory"`      // "auto", or "mem-path": the options of QEMUs before 2.1
	QEMUSocket string `toml:"qemu_socket"` // where switchd is asked for ports and devices
	Socket     string `toml:"socket"`      // one shared vhost-user socket for all interfaces instead of a port for each
}

// DefaultConfig is what holds without a file.
func DefaultConfig() Config {
	return Config{
		USVhostPath: "/dev/usvhost", Mode: ModeVhostUser, Hugepages: HugepagesAuto, Memory: "auto", QEMUSocket: "/run/vhostkit/qemu.sock",
	}
}

// Words is a list of strings that may also be written as one string of words.
type Words []string

// UnmarshalTOML reads an array of strings or a string.
func (w *Words) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case string:
		*w = strings.Fields(v)
	case []any:
		*w = nil
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return fmt.Errorf("%v is no string", e)
			}
			*w = append(*w, s)
		}
	default:
		return fmt.Errorf("%v: want a list of strings", v)
	}
	return nil
}

// LoadConfig reads the file, if there is one, and the environment over it. A file that is named (not DefaultConfigFile) must be there.
func LoadConfig(path string, environ []string) (Config, error) {
	c := DefaultConfig()
	named := path != ""
	if !named {
		path = DefaultConfigFile
	}
	meta, err := toml.DecodeFile(path, &c)
	switch {
	case errors.Is(err, os.ErrNotExist) && !named:
	case err != nil:
		return c, fmt.Errorf("configuration file %s: %w", path, err)
	case len(meta.Undecoded()) > 0:
		return c, fmt.Errorf("configuration file %s: unknown key %q", path, meta.Undecoded()[0])
	}
	if err := c.environment(environ); err != nil {
		return c, err
	}
	return c, c.check()
}

// environment takes the settings from variables.
func (c *Config) environment(environ []string) error {
	texts := map[string]*string{
		"EMUL_PATH": &c.EmulPath, "US_VHOST_PATH": &c.USVhostPath, "HUGETLBFS_DIR": &c.HugetlbfsDir, "MODE": &c.Mode, "HUGEPAGES": &c.Hugepages,
		"MEMORY": &c.Memory, "QEMU_SOCKET": &c.QEMUSocket, "SOCKET": &c.Socket,
	}
	lists := map[string]*Words{"EMUL_OPTS_USER": &c.EmulOptsUser, "EMUL_OPTS_USER_VHOST": &c.EmulOptsUserVhost, "INTERFACES": &c.Interfaces}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		name, ok := strings.CutPrefix(name, "QEMU_WRAP_")
		switch {
		case !ok || name == "CONFIG":
		case texts[name] != nil:
			*texts[name] = value
		case lists[name] != nil:
			*lists[name] = strings.Fields(value)
		case name == "USE_HUGE_ALL":
			on, err := strconv.ParseBool(value)
			if err != nil {
				return fmt.Errorf("QEMU_WRAP_USE_HUGE_ALL=%q: want true or false", value)
			}
			c.UseHugeAll = on
		default:
			return fmt.Errorf("QEMU_WRAP_%s is no setting: see the keys of %s", name, DefaultConfigFile)
		}
	}
	return nil
}

func (c *Config) check() error {
	for _, s := range []struct {
		name, value string
		choices     []string
	}{
		{"mode", c.Mode, []string{ModeVhostUser, ModeCUSE}},
		{"hugepages", c.Hugepages, []string{HugepagesAuto, HugepagesRequire, HugepagesNever}},
		{"memory", c.Memory, []string{"auto", "mem-path"}},
	} {
		if !slices.Contains(s.choices, s.value) {
			return fmt.Errorf("%s = %q: want %s", s.name, s.value, strings.Join(s.choices, " or "))
		}
	}
	return nil
}
