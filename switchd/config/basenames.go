package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// Backends of --backend.
const (
	backendUser = "vhost-user"
	backendCUSE = "cuse"
	backendBoth = "both"
)

// deviceName is what a device may be called; vhost/cuse.ValidName, which this package does not import.
var deviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// DefaultDevice is the device of --backend cuse where no name is given, the one that qemu-wrap looks for.
const DefaultDevice = "usvhost"

// AddBasenames gives the devices or sockets of the chosen backends these names (--dev-basename), in front of those that there are already.
func (c *Config) AddBasenames(basenames ...string) {
	if c.Backend != backendUser {
		for i := len(basenames); i > 0; i-- {
			if name := filepath.Base(basenames[i-1]); !slices.Contains(c.CUSEDevices, name) {
				c.CUSEDevices = append([]string{name}, c.CUSEDevices...)
			}
		}
	}
	if c.Backend != backendCUSE {
		c.SocketFiles = append(slices.Clone(basenames), c.SocketFiles...)
	}
}

// UsesCUSE tells that devices of vhost-cuse are to be made.
func (c *Config) UsesCUSE() bool { return c.Backend != backendUser }

// UsesSockets tells that sockets of vhost-user are to be made, also where none is named.
func (c *Config) UsesSockets() bool { return c.Backend != backendCUSE }

// CUSEPaths are the devices that the daemon makes.
func (c *Config) CUSEPaths() []string {
	if !c.UsesCUSE() {
		return nil
	}
	var paths []string
	for _, name := range c.CUSEDevices {
		paths = append(paths, "/dev/"+name)
	}
	return paths
}

func (c *Config) checkCUSE() error {
	if !c.UsesCUSE() {
		return nil
	}
	if len(c.CUSEDevices) == 0 {
		return &RangeError{"--dev-basename", `""`, "the name of a device for --backend " + c.Backend}
	}
	for i, name := range c.CUSEDevices {
		if !deviceName.MatchString(name) {
			return &RangeError{"--dev-basename", strconv.Quote(name), "1 to 63 letters, digits, '.', '_' and '-'"}
		}
		if slices.Contains(c.CUSEDevices[:i], name) {
			return &RangeError{"--dev-basename", strconv.Quote(name), "a different name each time"}
		}
	}
	return nil
}

// ParsedCUSEMode is --cuse-mode as a number.
func (c *Config) ParsedCUSEMode() (os.FileMode, error) {
	mode, err := strconv.ParseUint(c.CUSEMode, 8, 9)
	return os.FileMode(mode), err
}
