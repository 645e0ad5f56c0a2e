package daemon

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vhostkit/switchd/config"
	"vhostkit/switchd/control"
	"vhostkit/switchd/forward"
	"vhostkit/switchd/vhost"
	"vhostkit/switchd/vhost/user"
)

func quietDaemon(t *testing.T) *Daemon {
	t.Helper()
	d, err := New(config.DefaultConfig(), silent(t))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *Daemon) plugIn(t *testing.T, name string) vhost.Port {
	t.Helper()
	p, err := d.Connect(vhost.Connection{Socket: "/s", Name: name, Transport: "vhost-user", Fail: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestReadyNeedsARing: an address stays known when the driver has gone; such a port is not READY, and says why.
func TestReadyNeedsARing(t *testing.T) {
	for _, c := range []struct {
		st            forward.PortStats
		waiting       string
		state, reason string
	}{
		{forward.PortStats{Ready: true}, "", control.StateConnected, "driver not started (no ring runs)"},
		{forward.PortStats{}, "no ring enabled", control.StateConnected, "no ring enabled"},
		{forward.PortStats{Ready: true, RXRings: 1}, "", control.StateReady, ""},
		{forward.PortStats{RXRings: 1, TXRings: 1}, "", control.StateLearning, "no frame yet"},
		{forward.PortStats{RXRings: 1}, "", control.StateLearning, "no transmit ring"},
		{forward.PortStats{Ready: true, RXRings: 1, Failure: errors.New("bad ring")}, "", control.StateFailed, "bad ring"},
	} {
		if s, reason := state(c.st, c.waiting); s != c.state || !strings.Contains(reason, c.reason) || c.reason == "" && reason != "" {
			t.Errorf("%+v: %s, %q; want %s, %q", c.st, s, reason, c.state, c.reason)
		}
	}
}

// TestStoppedDevicesAreListed: with their identifiers on a shared socket, for a time, as many as are kept; and until it works again on a named
// port. An orderly end leaves nothing behind.
func TestStoppedDevicesAreListed(t *testing.T) {
	d := quietDaemon(t)
	d.plugIn(t, "").Close()
	if l := d.Ports(); len(l) != 0 {
		t.Errorf("after an orderly end: %+v", l)
	}
	for range keptStopped + 5 {
		p := d.plugIn(t, "")
		p.Close()
		p.Stopped(errors.New("bad ring"))
	}
	l := d.Ports()
	if len(l) != keptStopped || l[0].State != control.StateFailed || l[0].Error != "bad ring" || l[0].ID != 0 || l[0].Stopped == nil || l[0].Connected != nil {
		t.Fatalf("%d ports, the first %+v", len(l), l[0])
	}
	live := d.plugIn(t, "")
	if l := d.Ports(); l[0].State != control.StateConnected || l[0].Reason == "" || l[1].State != control.StateFailed {
		t.Errorf("the live port is not the first: %+v", l[:2])
	}
	live.Close()
	if n := len(d.history.recent(time.Now().Add(2 * stoppedFor))); n != 0 {
		t.Errorf("%d are listed for ever", n)
	}
}

func TestStoppedNamedPort(t *testing.T) {
	d := quietDaemon(t)
	d.named["vm1"] = &namedState{namedPort: namedPort{Name: "vm1"}}
	s := &socket{path: d.socketOf("vm1"), name: "vm1"}
	d.sockets[s.path] = s
	port := func() control.Port {
		t.Helper()
		l := d.Ports()
		if len(l) != 1 || l[0].Name != "vm1" {
			t.Fatalf("%+v", l)
		}
		return l[0]
	}
	s.tally.Refused(user.Refusal{Time: time.Now(), Reason: user.ReasonBudget, Error: "too many connections"})
	if p := port(); p.State != control.StateDisconnected || !strings.Contains(p.Reason, "too many connections") {
		t.Errorf("refused: %+v", p)
	}
	p := d.plugIn(t, "vm1")
	if _, err := d.Connect(vhost.Connection{Name: "vm1"}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second device: %v", err)
	}
	s.tally.Refused(user.Refusal{Time: time.Now(), Reason: user.ReasonInUse, Error: "in use"})
	if p := port(); !strings.Contains(p.LastRefusal, "in use") {
		t.Errorf("a second device was refused: %+v", p)
	}
	s.tally.Refused(user.Refusal{Time: time.Now(), Reason: user.ReasonFailed, Error: "bad ring"}) // told as the device's failure

	p.Close()
	p.Stopped(errors.New("bad ring"))
	if p := port(); p.State != control.StateFailed || p.Error != "bad ring" || p.ID != -1 {
		t.Errorf("stopped: %+v", p)
	}
	p = d.plugIn(t, "vm1") // comes back, and may be stopped again in a moment
	if p := port(); p.State != control.StateConnected || p.LastError != "bad ring" {
		t.Errorf("back: %+v", p)
	}
	p.Close()
	if p := port(); p.State != control.StateDisconnected || p.Error != "" || p.LastRefusal != "" {
		t.Errorf("after an orderly end: %+v", p)
	}
}
