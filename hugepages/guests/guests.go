// Package guests asks libvirt how much memory its domains take.
package guests

import (
	"fmt"

	"vhostkit/hugepages"
	"vhostkit/hugepages/bytesize"
	"vhostkit/libvirt"
	"vhostkit/libvirt/domainxml"
)

// Memory lists all domains, running or not, with the memory that they are configured with. One whose description cannot be read is an
// error: leaving it out would make the sum too small.
func Memory(conn libvirt.Connection) ([]hugepages.Domain, error) {
	all, err := conn.Domains()
	if err != nil {
		return nil, err
	}
	var list []hugepages.Domain
	for _, d := range all {
		running, persistent, err := d.State()
		if err != nil {
			return nil, fmt.Errorf("domain %s: %w", d.Name(), err)
		}
		// What it will take the next time it starts; a transient domain has only what it takes now.
		text, err := d.XML(running && !persistent)
		if err != nil {
			return nil, fmt.Errorf("domain %s: %w", d.Name(), err)
		}
		domain, err := domainxml.Inspect(text)
		if err != nil {
			return nil, fmt.Errorf("domain %s: %w", d.Name(), err)
		}
		if domain.Memory.Bytes == 0 {
			return nil, fmt.Errorf("domain %s: its description names no memory", d.Name())
		}
		list = append(list, hugepages.Domain{Name: d.Name(), Memory: []bytesize.Size{bytesize.Size(domain.Memory.Bytes)}})
	}
	return list, nil
}
