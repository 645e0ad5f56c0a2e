//go:build !cgo

package libvirt

import "fmt"

// Connect cannot work in a program that was built without cgo, which libvirt's library needs.
func Connect(string) (Connection, error) {
	return nil, fmt.Errorf("%w: this vhostctl was built without cgo; build it with make build", ErrUnavailable)
}
