package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Virsh is a connection by way of the virsh command, for builds and hosts without libvirt's library.
type Virsh struct {
	run Runner
	uri string
}

// ConnectVirsh finds out whether virsh can connect. uri "" is the system's.
func ConnectVirsh(ctx context.Context, run Runner, uri string) (*Virsh, error) {
	v := &Virsh{run, firstOf(uri, "qemu:///system")}
	if _, err := v.call(ctx, "uri"); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *Virsh) call(ctx context.Context, args ...string) (string, error) {
	out, err := v.run(ctx, "virsh", append([]string{"-q", "-c", v.uri}, args...)...)
	if err != nil {
		return "", fmt.Errorf("virsh %s on %s: %w", args[0], v.uri, err)
	}
	return out, nil
}

// Version implements Libvirt.
func (v *Virsh) Version(ctx context.Context) (int, error) {
	out, err := v.call(ctx, "version", "--daemon")
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(out, "\n") {
		var major, minor, release int
		if _, number, ok := strings.Cut(line, "daemon: "); ok {
			if n, _ := fmt.Sscanf(number, "%d.%d.%d", &major, &minor, &release); n == 3 {
				return major*1000000 + minor*1000 + release, nil
			}
		}
	}
	return 0, errors.New("virsh version --daemon names no version of the daemon")
}

// Capabilities implements Libvirt.
func (v *Virsh) Capabilities(ctx context.Context) (string, error) { return v.call(ctx, "capabilities") }

// DomainNames implements Libvirt.
func (v *Virsh) DomainNames(ctx context.Context) ([]string, error) {
	out, err := v.call(ctx, "list", "--all", "--name")
	var names []string
	for _, line := range strings.Split(out, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			names = append(names, line)
		}
	}
	return names, err
}

// Domain implements Libvirt.
func (v *Virsh) Domain(ctx context.Context, name string) (DomainXML, error) {
	info, err := v.call(ctx, "dominfo", "--domain", name)
	if err != nil {
		return DomainXML{}, err
	}
	x := DomainXML{Name: firstOf(field(info, "Name"), name)}
	state := field(info, "State")
	running := state != "shut off" && state != "crashed"
	if running {
		if x.Live, err = v.call(ctx, "dumpxml", "--domain", x.Name); err != nil {
			return x, err
		}
	}
	if !running || field(info, "Persistent") == "yes" {
		x.Config, err = v.call(ctx, "dumpxml", "--inactive", "--domain", x.Name)
	}
	return x, err
}

// field finds "Key:   value" in what virsh prints.
func field(text, key string) string {
	for _, line := range strings.Split(text, "\n") {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}
