package guests

import (
	"errors"
	"reflect"
	"testing"

	"vhostkit/hugepages"
	"vhostkit/hugepages/bytesize"
	"vhostkit/libvirt"
)

// domain is a domain made of a description.
type domain struct {
	libvirt.Domain
	name, xml           string
	running, persistent bool
	asked               *[]bool
}

func (d domain) Name() string                 { return d.name }
func (d domain) State() (bool, bool, error)   { return d.running, d.persistent, nil }
func (d domain) XML(now bool) (string, error) { *d.asked = append(*d.asked, now); return d.xml, nil }

type connection struct {
	libvirt.Connection
	list []libvirt.Domain
	err  error
}

func (c connection) Domains() ([]libvirt.Domain, error) { return c.list, c.err }

func TestMemory(t *testing.T) {
	var asked []bool
	vm := func(name, memory string, running, persistent bool) libvirt.Domain {
		return domain{name: name, xml: "<domain type='kvm'><name>" + name + "</name>" + memory + "</domain>", running: running, persistent: persistent, asked: &asked}
	}
	got, err := Memory(connection{list: []libvirt.Domain{vm("a", "<memory unit='KiB'>1572864</memory>", true, true), vm("b", "<memory unit='GiB'>2</memory>", true, false)}})
	want := []hugepages.Domain{{Name: "a", Memory: []bytesize.Size{1536 * bytesize.MiB}}, {Name: "b", Memory: []bytesize.Size{2 * bytesize.GiB}}}
	if err != nil || !reflect.DeepEqual(got, want) || !reflect.DeepEqual(asked, []bool{false, true}) {
		t.Errorf("%+v %v, asked %v", got, err, asked)
	}
	if _, err := Memory(connection{list: []libvirt.Domain{vm("a", "", false, true)}}); err == nil {
		t.Error("a domain without memory was counted")
	}
	broken := errors.New("broken")
	if _, err := Memory(connection{err: broken}); !errors.Is(err, broken) {
		t.Error(err)
	}
}
