package domains

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"vhostkit/libvirt"
	"vhostkit/libvirt/domainxml"
	"vhostkit/switchd/control"
)

// fakeDomain has a description of its configuration and, while it runs, one of that.
type fakeDomain struct {
	libvirt.Domain
	name, config, live string
	err                error
}

func (d fakeDomain) Name() string               { return d.name }
func (d fakeDomain) State() (bool, bool, error) { return d.live != "", d.config != "", d.err }
func (d fakeDomain) XML(running bool) (string, error) {
	if running {
		return d.live, nil
	}
	return d.config, nil
}

type fakeLibvirt struct {
	libvirt.Connection
	domains []libvirt.Domain
	err     error
}

func (f fakeLibvirt) Domains() ([]libvirt.Domain, error) { return f.domains, f.err }

type fakeSwitch struct {
	ports []control.Port
	err   error
}

func (f fakeSwitch) Ports(context.Context) ([]control.Port, error) { return f.ports, f.err }

const (
	mac1      = "52:54:00:00:00:01"
	shared    = `<memoryBacking><access mode='shared'/></memoryBacking>`
	vhostUser = `<interface type='vhostuser'><mac address='` + mac1 + `'/><source type='unix' path='/run/p/s.sock' mode='client'/></interface>`
	tap       = `<interface type='ethernet'><mac address='` + mac1 + `'/><alias name='net0'/></interface>`
	wrapper   = `<emulator>/usr/bin/qemu-wrap</emulator>`
)

func description(memory, devices string) string {
	return fmt.Sprintf(`<domain type='kvm'><name>vm1</name>%s<devices>%s</devices></domain>`, memory, devices)
}

func TestList(t *testing.T) {
	named := func(state string, macs ...string) control.Port {
		return control.Port{ID: 3, Name: "s", Socket: "/run/p/s.sock", State: state, MACs: macs}
	}
	common := func(macs ...string) control.Port {
		return control.Port{ID: 4, Socket: "/run/p/s.sock", State: control.StateReady, MACs: macs}
	}
	user, private := description(shared, vhostUser), description("", vhostUser)
	wrapped := description("", wrapper+tap)
	attached, err := domainxml.Attach(description("", tap), domainxml.Options{
		Memory: domainxml.MemoryMemfd,
		Port:   func(domainxml.Interface) (string, string, error) { return "s", "/run/p/s.sock", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	failed := named(control.StateFailed)
	failed.Error = "bad ring"
	for _, c := range []struct {
		name         string
		config, live string
		port         control.Port
		want         string // port, ready, shared, why; empty: no entry
	}{
		{"ready", user, user, named(control.StateReady, mac1), "3 true true "},
		{"another address", user, user, named(control.StateReady, "52:54:00:00:00:99"), "3 true true the guest uses another address"},
		{"learning", user, user, named(control.StateLearning), "3 false true the guest has sent nothing"},
		{"no driver", user, user, named(control.StateConnected), "3 false true the guest's driver"},
		{"private", private, private, named(control.StateConnected), "3 false false the memory is private"},
		{"not connected", user, user, named(control.StateDisconnected), "3 false true QEMU is not connected: vhostctl doctor vm1"},
		{"not connected, private", private, private, named(control.StateDisconnected), "3 false false QEMU is not connected, and"},
		{"failed", user, user, failed, "3 false true stopped: bad ring"},
		{"not running", user, "", named(control.StateDisconnected), "3 false true the domain does not run"},
		{"not running, no port", user, "", control.Port{}, "-1 false true the domain does not run"},
		{"shared socket", user, user, common(mac1), "4 true true "},
		{"shared socket, another guest", user, user, common("52:54:00:00:00:99"), "-1 false true no port of the switch"},
		{"wrapper", wrapped, wrapped, control.Port{ID: 5, Name: "vm1-hostnet0", State: control.StateReady, MACs: []string{mac1},
			Memory: []control.MemoryRegion{{Size: 1 << 20}}}, "5 true true "},
		{"wrapper, not on the switch", wrapped, wrapped, control.Port{}, "-1 false false qemu-wrap has not"},
		{"wrapper, not running", wrapped, "", control.Port{}, "-1 false false the domain does not run"},
		{"another's port with the address", description("", tap), description("", tap), common(mac1), ""},
		{"attached while it ran", attached.XML, description("", tap), named(control.StateDisconnected), "-1 false false attached in the configuration"},
		{"ordinary", description("", tap), "", control.Port{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := fakeDomain{name: "vm1", config: c.config, live: c.live}
			list, err := List(context.Background(), fakeLibvirt{domains: []libvirt.Domain{d}}, fakeSwitch{ports: []control.Port{c.port}})
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				if len(list) != 0 {
					t.Errorf("entries %+v, want none", list)
				}
				return
			}
			if len(list) != 1 {
				t.Fatalf("entries %+v, want one", list)
			}
			e := list[0]
			got := fmt.Sprintf("%d %v %v %s", e.Port, e.Ready, e.Shared, e.Why)
			if exact := strings.HasSuffix(c.want, " "); exact && got != c.want || !strings.HasPrefix(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
			if e.Domain != "vm1" || e.Interface != "net0" || e.MAC != mac1 || e.Running != (c.live != "") {
				t.Errorf("entry %+v", e)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	ctx := context.Background()
	if _, err := List(ctx, fakeLibvirt{}, fakeSwitch{err: control.ErrUnreachable}); !errors.Is(err, control.ErrUnreachable) {
		t.Errorf("without switchd: %v", err)
	}
	if _, err := List(ctx, fakeLibvirt{err: libvirt.ErrUnavailable}, fakeSwitch{}); !errors.Is(err, libvirt.ErrUnavailable) {
		t.Errorf("without libvirt: %v", err)
	}
	// A domain that has just ended, or that is broken, does not hide the others.
	list, err := List(ctx, fakeLibvirt{domains: []libvirt.Domain{
		fakeDomain{name: "gone", err: errors.New("it has ended")}, fakeDomain{name: "broken", config: "<network/>"},
		fakeDomain{name: "vm1", config: description(shared, vhostUser)},
	}}, fakeSwitch{})
	if err != nil || len(list) != 3 || list[0].Why != "it has ended" || !strings.Contains(list[1].Why, "description of domain broken") ||
		list[2].Domain != "vm1" {
		t.Errorf("%+v, %v", list, err)
	}
}
