// Package libvirt is what vhostctl wants of libvirt, behind a small interface. The library is loaded when it is first used
// (build tag libvirt_dlopen), so that programs run on hosts without it and say so.
package libvirt

import "errors"

// Errors that callers test.
var (
	// ErrUnavailable says that libvirt cannot be used at all: the library or its daemon is not there.
	ErrUnavailable = errors.New("libvirt is not available")
	// ErrNoDomain says that there is no domain of that name or UUID.
	ErrNoDomain = errors.New("no such domain")
)

// DefaultURI is where domains are looked for when nothing else is said.
const DefaultURI = "qemu:///system"

// Connection is a connection to libvirt. It is not for concurrent use.
type Connection interface {
	// Version is the daemon's, as major*1000000 + minor*1000 + release.
	Version() (int, error)
	// Capabilities is the host's capabilities document.
	Capabilities() (string, error)
	// Domains lists all domains by name, running or not.
	Domains() ([]Domain, error)
	// Domain finds one by name or UUID: ErrNoDomain.
	Domain(name string) (Domain, error)
	// Define makes or replaces a domain's persistent configuration, after checking it against the schema.
	Define(xml string) (Domain, error)
	Close() error
}

// Domain is one domain.
type Domain interface {
	Name() string
	// State tells whether it runs, and whether it has a persistent configuration.
	State() (running, persistent bool, err error)
	// XML describes it: as it runs, or as it will start next time. Secrets are included, so that it can be defined again.
	XML(running bool) (string, error)
	// Start starts it.
	Start() error
	// Stop ends it at once, like pulling the plug.
	Stop() error
	// AttachDevice adds a device to the running domain.
	AttachDevice(xml string) error
	// DetachDevice asks the running guest to give a device up. It returns before the guest has answered.
	DetachDevice(xml string) error
}
