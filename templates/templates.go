// Package templates holds the texts that vhostkit installs.
package templates

import _ "embed"

// QEMUWrapConfig is the sample of /etc/vhostkit/qemu-wrap.toml.
//
//go:embed qemu-wrap.toml
var QEMUWrapConfig string
