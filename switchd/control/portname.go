package control

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// MaxPortName is the longest name of a port, in bytes.
const MaxPortName = 63

// PortName makes a port's name of a machine's name and one of its interfaces', the same each time. A name that has to be changed to be one
// gets a checksum, so that different machines never share a port.
func PortName(machine, part string) string {
	name := strings.Map(func(c rune) rune {
		if c < 0x80 && (c == '_' || c == '.' || c == '-' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return c
		}
		return '_'
	}, machine+"-"+part)
	if c := name[0]; !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
		name = "vm-" + name
	}
	if name == machine+"-"+part && len(name) <= MaxPortName {
		return name
	}
	sum := sha256.Sum256([]byte(machine + "\x00" + part))
	suffix := "-" + hex.EncodeToString(sum[:4])
	return name[:min(len(name), MaxPortName-len(suffix))] + suffix
}
