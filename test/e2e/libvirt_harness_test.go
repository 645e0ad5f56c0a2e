package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostkit/libvirt/doctor"
	"vhostkit/libvirt/domains"
	"vhostkit/switchd/control"
	"vhostkit/test/guest"
	"vhostkit/test/internal/proc"
	"vhostkit/test/libvirtd"
)

// host is a machine with a libvirtd and a switch, both with default settings, in namespaces of their own.
type host struct {
	*libvirtd.Rig
	*switchd // runs inside: Start, Restart and Stop are the host's
	ctx      context.Context
}

// startHost starts both and ends them with the test, which gets their logs if it fails.
func startHost(t *testing.T) *host {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	rig, err := libvirtd.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{Rig: rig, switchd: &switchd{Dir: rig.Dir}, ctx: ctx}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("switchd's log:\n%s\nlibvirt's logs:\n%s", proc.Tail(h.Log(), 40), h.Logs())
		}
		if err := rig.Close(); err != nil {
			t.Error(err)
		}
		<-h.done
		if _, err := os.Stat(rig.Dir); err == nil {
			t.Errorf("%s is left", rig.Dir)
		}
	})
	h.useControl(rig.Path("/run/vhostkit/switchd.sock"))
	h.done = make(chan struct{})
	close(h.done)
	h.startSwitch(t)
	return h
}

// install puts a command of the project where everyone inside may run it.
func (h *host) install(t *testing.T, name string) string {
	t.Helper()
	to := filepath.Join(h.Rig.Dir, name)
	if _, err := os.Stat(to); err == nil {
		return to
	}
	data, err := os.ReadFile(commandPath(t, name))
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func (h *host) startSwitch(t *testing.T) {
	t.Helper()
	cmd := h.Command(h.ctx, h.install(t, "switchd"), "--uplink", "none", "--state-dir", "/run/vhostkit/state")
	cmd.Stdout, cmd.Stderr = &h.out, &h.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	h.done = done
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	eventually(t, 10*time.Second, "switchd answers on its control socket", func() bool {
		select {
		case <-done:
			t.Fatalf("switchd ended:\n%s", h.Log())
		default:
		}
		_, err := h.Client.Version(h.ctx)
		return err == nil
	})
}

// crashSwitch ends switchd as a crash would.
func (h *host) crashSwitch(t *testing.T) {
	t.Helper()
	v, err := h.Client.Version(h.ctx)
	if err == nil {
		err = h.Rig.Kill(h.ctx, "KILL", v.PID)
	}
	if err != nil {
		t.Fatal(err)
	}
	<-h.done
}

// vhostctl runs it inside; it must succeed.
func (h *host) vhostctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.Run(h.ctx, append([]string{h.install(t, "vhostctl")}, args...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// inactive is a domain's persistent description.
func (h *host) inactive(t *testing.T, name string) string {
	t.Helper()
	text, err := h.Inactive(h.ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (h *host) virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.Virsh(h.ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (h *host) define(t *testing.T, d libvirtd.Domain) string {
	t.Helper()
	text, err := h.Define(h.ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// boot starts domains side by side and gives the Nth the address 10.8.0.N on eth0.
func (h *host) boot(t *testing.T, names ...string) []*guest.Guest {
	t.Helper()
	guests := make([]*guest.Guest, len(names))
	failed := make(chan error, len(names))
	for i, name := range names {
		go func() {
			g, err := h.Boot(h.ctx, name, nil)
			if err == nil {
				guests[i] = g
				_, err = g.Shell(h.ctx, address(i+1))
			}
			failed <- err
		}()
	}
	for range names {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		for _, g := range guests {
			if g != nil {
				if t.Failed() {
					t.Logf("console of %s:\n%s", g.Name(), proc.Tail(g.Console(), 20))
				}
				g.Kill()
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	for _, name := range names {
		h.wantUnprivileged(t, name)
	}
	return guests
}

func address(n int) string {
	return fmt.Sprintf("ip addr add 10.8.0.%d/24 dev eth0 && ip link set eth0 up", n)
}

// qemu is the process of a running domain.
func (h *host) qemu(t *testing.T, name string) int {
	t.Helper()
	pid, err := h.QEMU(name)
	if err != nil || pid == 0 {
		t.Fatalf("domain %s has process %d: %v", name, pid, err)
	}
	return pid
}

// wantUnprivileged: QEMU is neither root nor has any capability.
func (h *host) wantUnprivileged(t *testing.T, name string) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.qemu(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.TrimSpace(value)
	}
	for _, id := range strings.Fields(fields["Uid"] + " " + fields["Gid"]) {
		if id == "0" {
			t.Errorf("QEMU of domain %s has user and group %s, %s", name, fields["Uid"], fields["Gid"])
		}
	}
	if caps, err := strconv.ParseUint(fields["CapEff"], 16, 64); err != nil || caps != 0 {
		t.Errorf("QEMU of domain %s has capabilities %s", name, fields["CapEff"])
	}
	if !strings.HasPrefix(fields["Name"], "qemu") {
		t.Errorf("process of domain %s is %s: not QEMU itself", name, fields["Name"])
	}
}

// destroy pulls a domain's plug, and nothing of it may be left.
func (h *host) destroy(t *testing.T, name string) {
	t.Helper()
	pid := h.qemu(t, name)
	h.virsh(t, "destroy", name)
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("domain %s is destroyed, but its process %d is still there (%v)", name, pid, err)
	}
	if out, err := h.Run(h.ctx, "pgrep", "-f", "guest="+name+","); err == nil {
		t.Errorf("domain %s is destroyed, but these processes name it: %s", name, out)
	}
}

// wantReady waits until that many ports carry traffic.
func (h *host) wantReady(t *testing.T, n int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%d ports are READY", n), func() bool {
		ready := 0
		for _, p := range h.ports(t) {
			if p.State == control.StateReady {
				ready++
			}
		}
		return ready == n
	})
}

// notOfHere are the checks that can find fault with the test machine, whatever the switch and the guest do.
var notOfHere = map[string]string{
	"kvm":            "the machine may have no KVM, or one that QEMU's user may not open",
	"domain-kvm":     "the rig emulates where KVM does not run a guest, also if /dev/kvm is there",
	"hugepages-pool": "the machine reserves no hugepages, and the guest needs none",
}

// wantHealthy: every other check of the doctor runs, and none has anything to say against the host, the switch and the domain.
func (h *host) wantHealthy(t *testing.T, name string) {
	t.Helper()
	var ids []string
	for _, c := range doctor.Checks() {
		if notOfHere[c.ID] == "" {
			ids = append(ids, c.ID)
		}
	}
	// Its exit code is 0 only without warnings and without what could not be told.
	out, err := h.Run(h.ctx, h.install(t, "vhostctl"), "doctor", name, "--all", "-o", "json", "--check", strings.Join(ids, ","))
	var r doctor.Report
	if e := json.Unmarshal([]byte(out), &r); e != nil {
		t.Fatalf("vhostctl doctor: %v, %v\n%s", err, e, out)
	}
	for _, c := range r.Checks {
		if c.Status != doctor.OK && c.Status != doctor.NotApplicable {
			t.Errorf("doctor: %s is %s: %s", c.ID, c.Status, c.Detail)
		}
	}
	if err != nil || r.Status != doctor.OK || len(r.Checks) != len(ids) {
		t.Errorf("doctor: %v, status %s, %d checks of %d", err, r.Status, len(r.Checks), len(ids))
	}
}

// wantDomains compares what vhostctl domains tells: domain, state, READY or no, memory, port. Addresses are learned a moment after they are used.
func (h *host) wantDomains(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		text := h.vhostctl(t, "domains", "-o", "json")
		var list []domains.Entry
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatalf("vhostctl domains: %v\n%s", err, text)
		}
		got = nil
		for _, e := range list {
			words := map[bool][3]string{true: {"running", "READY", "shared"}, false: {"stopped", "no", "private"}}
			got = append(got, fmt.Sprintf("%s %s %s %s %s", e.Domain, words[e.Running][0], words[e.Ready][1], words[e.Shared][2], e.PortName))
			if e.Running && !slices.Contains(e.Features, "version_1") {
				t.Errorf("domain %s has negotiated %v", e.Domain, e.Features)
			}
		}
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(end) {
			t.Errorf("vhostctl domains: %q, want %q\n%s\n%s", got, want, text, h.vhostctl(t, "domains"))
			return
		}
	}
}
