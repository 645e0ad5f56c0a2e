// Package templates holds the texts that vhostkit installs.
package templates

import _ "embed"

// QEMUWrapConfig is the sample of /etc/vhostkit/qemu-wrap.toml.
//
//go:embed qemu-wrap.toml
var QEMUWrapConfig string

// UdevRules is /etc/udev/rules.d/60-vhostkit.rules.
//
//go:embed usvhost.rules
var UdevRules string

// AppArmorQEMU are the rules for QEMU's processes, to be put into local/abstractions/libvirt-qemu. @WRAPPER@ is the wrapper's path,
// @DEVICES@ the rules for devices.
//
//go:embed apparmor-libvirt-qemu
var AppArmorQEMU string

// AppArmorLibvirtd are the rules for libvirtd, where the wrapper is not in a directory that its profile knows.
//
//go:embed apparmor-libvirtd
var AppArmorLibvirtd string

// QEMUWrapMan is qemu-wrap(8).
//
//go:embed man/qemu-wrap.8
var QEMUWrapMan string

// SwitchdConfig is the sample of /etc/vhostkit/switchd.toml.
//
//go:embed switchd.toml
var SwitchdConfig string
