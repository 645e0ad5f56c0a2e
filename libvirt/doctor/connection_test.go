package doctor

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"vhostkit/libvirt"
)

// connection answers for package libvirt. What a test does not need is not there.
type connection struct {
	libvirt.Connection
	domains []libvirt.Domain
	hang    chan struct{}
}

func (c *connection) Version() (int, error) {
	if c.hang != nil {
		<-c.hang
	}
	return 9_000_000, nil
}
func (c *connection) Capabilities() (string, error)      { return "<capabilities/>", nil }
func (c *connection) Domains() ([]libvirt.Domain, error) { return c.domains, nil }
func (c *connection) Domain(n string) (libvirt.Domain, error) {
	for _, d := range c.domains {
		if d.Name() == n {
			return d, nil
		}
	}
	return nil, libvirt.ErrNoDomain
}

type machine struct {
	libvirt.Domain
	name                string
	running, persistent bool
}

func (m machine) Name() string               { return m.name }
func (m machine) State() (bool, bool, error) { return m.running, m.persistent, nil }
func (m machine) XML(running bool) (string, error) {
	if running {
		return "<live/>", nil
	}
	return "<config/>", nil
}

func TestLibrary(t *testing.T) {
	ctx := context.Background()
	l := &library{connection: &connection{domains: []libvirt.Domain{machine{name: "both", running: true, persistent: true},
		machine{name: "off", persistent: true}, machine{name: "short", running: true}}}}
	if v, err := l.Version(ctx); v != 9_000_000 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
	if names, err := l.DomainNames(ctx); !reflect.DeepEqual(names, []string{"both", "off", "short"}) || err != nil {
		t.Errorf("%v, %v", names, err)
	}
	for name, want := range map[string]DomainXML{"both": {"both", "<config/>", "<live/>"}, "off": {"off", "<config/>", ""}, "short": {"short", "", "<live/>"}} {
		if got, err := l.Domain(ctx, name); got != want || err != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := l.Domain(ctx, "missing"); !errors.Is(err, libvirt.ErrNoDomain) {
		t.Errorf("a missing domain: %v", err)
	}
}

// A libvirt that hangs costs its time once, and gets no second call while the first is on its way.
func TestHangingLibrary(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	l := &library{connection: &connection{hang: hang}}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Version(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call that hangs: %v", err)
	}
	if _, err := l.Capabilities(context.Background()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a second call: %v", err)
	}
}

// In a session the process is found by its command line, among the user's own.
func TestSessionEmulator(t *testing.T) {
	own := process{UID: os.Geteuid()}
	own.PID, own.Args = 5, []string{"qemu", "-name", "guest=a,,b,debug-threads=on"}
	other := own
	other.PID, other.UID = 6, own.UID+1
	e := &Env{Files: fakeFiles{}, URI: "qemu:///session"}
	if p, found := e.emulator([]process{other, own}, "a,b"); !found || p.PID != 5 {
		t.Errorf("found %v, process %d", found, p.PID)
	}
	if _, found := e.emulator([]process{other, own}, "a"); found {
		t.Error("another name was found")
	}
}
