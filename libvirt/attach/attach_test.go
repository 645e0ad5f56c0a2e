package attach

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"vhostkit/libvirt"
	"vhostkit/libvirt/domainxml"
	"vhostkit/switchd/control"
)

const original = `<domain type='kvm'>
  <name>vm1</name>
  <memory unit='MiB'>64</memory>
  <devices>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
  </devices>
</domain>
`

// fakeLibvirt has one domain, and like libvirt writes descriptions in its own way.
type fakeLibvirt struct {
	config, live string
	started      bool
	calls        []string
	fail         string // the call that fails
	works        int    // so many of them work before
	completes    bool   // adds something of its own to what it is given
}

func (f *fakeLibvirt) call(name string) error {
	f.calls = append(f.calls, name)
	if name != f.fail {
		return nil
	}
	if f.works--; f.works == -1 {
		return fmt.Errorf("%s failed", name)
	}
	return nil
}

func (f *fakeLibvirt) Version() (int, error) { return 9000000, nil }
func (f *fakeLibvirt) Capabilities() (string, error) {
	return `<capabilities><host><secmodel><model>apparmor</model></secmodel><secmodel><model>dac</model><doi>0</doi>
		<baselabel type='kvm'>+64055:+109</baselabel></secmodel></host></capabilities>`, nil
}
func (f *fakeLibvirt) Domains() ([]libvirt.Domain, error) { return []libvirt.Domain{f}, nil }
func (f *fakeLibvirt) Close() error                       { return nil }
func (f *fakeLibvirt) Domain(name string) (libvirt.Domain, error) {
	if name != "vm1" {
		return nil, libvirt.ErrNoDomain
	}
	return f, nil
}

func (f *fakeLibvirt) Define(xml string) (libvirt.Domain, error) {
	if err := f.call("define"); err != nil {
		return nil, err
	}
	f.config = strings.ReplaceAll(xml, `<model type='virtio'/>`, `<model  type='virtio' />`)
	if !strings.Contains(xml, "vhostuser") {
		f.config = xml
	} else if f.completes && !strings.Contains(xml, "iommu") {
		f.config = strings.Replace(f.config, "<model  type", "<driver iommu='off'/><model  type", 1)
	}
	return f, nil
}

func (f *fakeLibvirt) Name() string               { return "vm1" }
func (f *fakeLibvirt) State() (bool, bool, error) { return f.live != "", f.config != "", nil }
func (f *fakeLibvirt) Stop() error                { return f.call("stop") }
func (f *fakeLibvirt) Start() error               { f.started = true; return f.call("start") }
func (f *fakeLibvirt) XML(running bool) (string, error) {
	if running {
		return f.live, nil
	}
	return f.config, f.call("config")
}

func (f *fakeLibvirt) AttachDevice(xml string) error {
	if err := f.call("attach"); err != nil {
		return err
	}
	f.live = strings.Replace(f.live, "<devices>", "<devices>"+xml, 1)
	return nil
}

func (f *fakeLibvirt) DetachDevice(xml string) error {
	if err := f.call("detach"); err != nil {
		return err
	}
	f.live = strings.Replace(f.live, xml, "", 1)
	return nil
}

// fakeSwitch remembers its ports.
type fakeSwitch struct {
	ports map[string]control.AddPortRequest
	down  bool
}

func (f *fakeSwitch) Version(context.Context) (control.VersionInfo, error) {
	if f.down {
		return control.VersionInfo{}, control.ErrUnreachable
	}
	return control.VersionInfo{SocketDir: "/run/p"}, nil
}

func (f *fakeSwitch) Port(_ context.Context, name string) (control.Port, error) {
	if _, ok := f.ports[name]; !ok {
		return control.Port{}, &control.RemoteError{Status: http.StatusNotFound, Message: "no port"}
	}
	return control.Port{Name: name, Socket: "/run/p/" + name + ".sock"}, nil
}

func (f *fakeSwitch) AddPortAs(_ context.Context, r control.AddPortRequest) (control.Port, error) {
	if _, ok := f.ports[r.Name]; ok {
		return control.Port{}, &control.RemoteError{Status: http.StatusConflict, Message: "exists already"}
	}
	f.ports[r.Name] = r
	return control.Port{Name: r.Name}, nil
}

func (f *fakeSwitch) RemovePort(_ context.Context, name string) error {
	delete(f.ports, name)
	return nil
}

func newFakes() (*fakeLibvirt, *fakeSwitch) {
	return &fakeLibvirt{config: original}, &fakeSwitch{ports: map[string]control.AddPortRequest{}}
}

func run(t *testing.T, p *Plan, err error) *Plan {
	t.Helper()
	if err == nil {
		err = p.Apply(context.Background(), func(string) {})
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAttachAndDetach(t *testing.T) {
	ctx := context.Background()
	l, s := newFakes()
	p, err := PrepareAttach(ctx, l, s, Request{Domain: "vm1", Start: true})
	if err != nil || len(s.ports) > 0 || l.config != original {
		t.Fatalf("preparing changed something: %v", err)
	}
	if d := p.Diff(); !strings.Contains(d, "+    <interface type='vhostuser'>") || !strings.Contains(d, "--- a/vm1.xml") {
		t.Errorf("diff:\n%s", d)
	}
	run(t, p, nil)
	port, ok := s.ports["vm1-net0"]
	if !ok || *port.UID != 64055 || *port.GID != 109 || !l.started {
		t.Errorf("ports %+v, started %v", s.ports, l.started)
	}
	if d, err := domainxml.Inspect(l.config); err != nil || d.Interfaces[0].Socket != "/run/p/vm1-net0.sock" || !d.Memory.Shared {
		t.Errorf("configuration %+v, %v", d, err)
	}
	again, err := PrepareAttach(ctx, l, s, Request{Domain: "vm1"})
	if err != nil || !again.Empty() {
		t.Errorf("a second attach: %+v, %v", again, err)
	}
	back, err := PrepareDetach(ctx, l, s, Request{Domain: "vm1"})
	run(t, back, err)
	if l.config != original || len(s.ports) > 0 {
		t.Errorf("after detach: ports %v, configuration\n%s", s.ports, l.config)
	}
	if none, err := PrepareDetach(ctx, l, s, Request{Domain: "vm1"}); err != nil || !none.Empty() {
		t.Errorf("a second detach: %+v, %v", none, err)
	}
}

// TestLive swaps the interface of a running guest whose memory is shared, and leaves one alone whose memory is not.
func TestLive(t *testing.T) {
	ctx := context.Background()
	l, s := newFakes()
	l.live = original
	p, err := PrepareAttach(ctx, l, s, Request{Domain: "vm1"})
	if err != nil || !p.PowerCycle || len(p.Notes) == 0 || len(p.swaps) > 0 {
		t.Errorf("private memory: %+v, %v", p, err)
	}
	if _, err := PrepareAttach(ctx, l, s, Request{Domain: "vm1", Live: true}); err == nil || !strings.Contains(err.Error(), "private memory") {
		t.Errorf("--live with private memory: %v", err)
	}
	l.live = strings.Replace(original, "  <devices>", "  <memoryBacking><access mode='shared'/></memoryBacking>\n  <devices>", 1)
	p, err = PrepareAttach(ctx, l, s, Request{Domain: "vm1"})
	run(t, p, err)
	if d, _ := domainxml.Inspect(l.live); p.PowerCycle || d.Interfaces[0].Type != "vhostuser" || !slices.Contains(l.calls, "detach") {
		t.Errorf("the running guest has %+v after %v", d.Interfaces, l.calls)
	}
	p, err = PrepareDetach(ctx, l, s, Request{Domain: "vm1"})
	run(t, p, err)
	if d, _ := domainxml.Inspect(l.live); d.Interfaces[0].Type != "network" || len(s.ports) > 0 || l.config != original {
		t.Errorf("after detach the running guest has %+v, ports %v", d.Interfaces, s.ports)
	}
}

// TestFailuresAreUndone lets each step fail.
func TestFailuresAreUndone(t *testing.T) {
	ctx := context.Background()
	for _, fail := range []string{"define", "detach", "attach"} {
		l, s := newFakes()
		l.live = strings.Replace(original, "  <devices>", "  <memoryBacking><access mode='shared'/></memoryBacking>\n  <devices>", 1)
		p, err := PrepareAttach(ctx, l, s, Request{Domain: "vm1"})
		if err != nil {
			t.Fatal(err)
		}
		l.fail = fail
		if err := p.Apply(ctx, func(string) {}); err == nil || !strings.Contains(err.Error(), fail+" failed") {
			t.Errorf("%s: %v", fail, err)
		}
		if len(s.ports) > 0 || l.config != original {
			t.Errorf("after a failed %s: ports %v, configuration\n%s", fail, s.ports, l.config)
		}
	}
}

// TestLateFailuresAreUndone: also what libvirt refuses once the configuration is changed, or once a first interface is on the switch.
func TestLateFailuresAreUndone(t *testing.T) {
	ctx := context.Background()
	second := "<interface type='network'><mac address='52:54:00:00:00:02'/><source network='default'/><model type='virtio'/></interface>"
	for _, c := range []struct {
		fail  string
		works int
	}{{"config", 0}, {"define", 1}, {"detach", 1}, {"attach", 1}} {
		l, s := newFakes()
		l.config = strings.Replace(original, "  </devices>", second+"</devices>", 1)
		before := l.config
		l.live = strings.Replace(before, "  <devices>", "  <memoryBacking><access mode='shared'/></memoryBacking>\n  <devices>", 1)
		p, err := PrepareAttach(ctx, l, s, Request{Domain: "vm1", Interfaces: []string{"all"}})
		if err != nil {
			t.Fatal(err)
		}
		// Something that libvirt completes, so that it is sealed.
		l.completes = true
		l.fail, l.works = c.fail, c.works
		if err := p.Apply(ctx, func(string) {}); err == nil || !strings.Contains(err.Error(), c.fail+" failed") {
			t.Errorf("%s: %v", c.fail, err)
		}
		if len(s.ports) > 0 || l.config != before {
			t.Errorf("after a failed %s: ports %v, configuration\n%s", c.fail, s.ports, l.config)
		}
		if d, _ := domainxml.Inspect(l.live); len(d.Interfaces) != 2 || d.Interfaces[0].Type != "network" || d.Interfaces[1].Type != "network" {
			t.Errorf("after a failed %s the running guest has %+v", c.fail, d.Interfaces)
		}
	}
}

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	l, s := newFakes()
	for want, change := range map[string]func(*Request){
		"no such domain": func(r *Request) { r.Domain = "vm2" }, "is not running; omit --live": func(r *Request) { r.Live = true },
		"no interface is called": func(r *Request) { r.Interfaces = []string{"net7"} },
	} {
		r := Request{Domain: "vm1"}
		change(&r)
		if _, err := PrepareAttach(ctx, l, s, r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	s.down = true
	if _, err := PrepareAttach(ctx, l, s, Request{Domain: "vm1"}); !errors.Is(err, control.ErrUnreachable) {
		t.Errorf("without switchd: %v", err)
	}
	l.config = ""
	l.live = original
	if _, err := PrepareAttach(ctx, l, s, Request{Domain: "vm1"}); err == nil || !strings.Contains(err.Error(), "transient") {
		t.Errorf("a transient domain: %v", err)
	}
}

func TestDiffHidesPasswords(t *testing.T) {
	p := &Plan{Domain: "vm1", before: "<graphics passwd='geheim'/>\n", after: "<graphics passwd=\"geheim\" x='1'/>\n"}
	if d := p.Diff(); strings.Contains(d, "geheim") || !strings.Contains(d, "passwd='***'") {
		t.Errorf("diff:\n%s", d)
	}
}
