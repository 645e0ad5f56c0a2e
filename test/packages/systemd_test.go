package packages

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vhostkit/test/guest"
)

// service is the installed switch in a booted machine.
type service struct {
	*guest.Guest
	ctx context.Context
}

// run demands success.
func (s service) run(t *testing.T, argv ...string) string {
	t.Helper()
	return s.MustRun(s.ctx, t, argv...)
}

// property is one of the service manager's properties of a unit.
func (s service) property(t *testing.T, unit, name string) string {
	t.Helper()
	return strings.TrimSpace(s.run(t, "systemctl", "show", "--value", "-p", name, unit))
}

func (s service) number(t *testing.T, unit, name string) int {
	t.Helper()
	text := s.property(t, unit, name)
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s of %s is %q", name, unit, text)
	}
	return n
}

// until polls a condition, which says what it sees.
func (s service) until(t *testing.T, limit time.Duration, what string, condition func() (string, bool)) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		seen, ok := condition()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v, it is %s\n%s", what, limit, seen, s.journal(t))
		}
	}
}

func (s service) journal(t *testing.T) string {
	t.Helper()
	return tail(s.run(t, "journalctl", "--no-pager", "-o", "cat", "-u", "switchd.service"), 30)
}

// exchange: guests can use the service.
func (s service) exchange(t *testing.T) {
	t.Helper()
	ports := "/run/vhostkit/ports/"
	if out := s.run(t, "/rig/inside", "exchange", ports+"vm1.sock", ports+"vm2.sock"); !strings.Contains(out, "frames each way") {
		t.Fatalf("the exchange says %q\n%s", out, s.journal(t))
	}
}

// TestSystemd boots the clean root with the package installed and the units enabled, and lives through what happens to a service.
func TestSystemd(t *testing.T) {
	needRoot(t, "mke2fs")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	m := newMachine(t, func(root string) {
		in(t, root, "systemctl", "enable", "switchd.service", "vhostkit-hugepages.service")
		next, err := os.ReadFile(deb(t, secondVersion))
		if err != nil {
			t.Fatal(err)
		}
		write(t, root, "/root/next.deb", string(next))
		// A machine with GRUB, as far as vhostctl looks.
		write(t, root, "/etc/default/grub", "GRUB_CMDLINE_LINUX=\"\"\n")
		write(t, root, "/boot/grub/grub.cfg", "")
		write(t, root, "/usr/local/sbin/update-grub", "#!/bin/sh\n")
		in(t, root, "chmod", "755", "/usr/local/sbin/update-grub")
		in(t, root, "vhostctl", "hugepages", "provision", "--persist", "--page-size", "2M", "--for-vms", "64M", "--for-switch", "16M", "--yes")
	})
	s := powerOn(ctx, t, m)
	for _, part := range []struct {
		name string
		run  func(t *testing.T, s service)
	}{
		{"boot", afterBoot}, {"control socket", controlSocket}, {"traffic", traffic}, {"sandbox", sandbox}, {"kill", killed}, {"watchdog", watchdog},
		{"reload", reloaded}, {"tap", tap}, {"bad configuration", badConfiguration}, {"stop", stopped},
	} {
		begun := time.Now()
		if !t.Run(part.name, func(t *testing.T) { part.run(t, s) }) {
			t.Logf("the journal:\n%s", s.journal(t))
		}
		t.Logf("%s: %v", part.name, time.Since(begun).Round(100*time.Millisecond))
	}
	t.Run("reboot", func(t *testing.T) { rebooted(ctx, t, s, m) })
}

// powerOn boots the machine and waits for the switch.
func powerOn(ctx context.Context, t *testing.T, m machine) service {
	t.Helper()
	start := time.Now()
	s := service{m.boot(ctx, t), ctx}
	s.until(t, 2*time.Minute, "switchd.service is active", func() (string, bool) {
		state := s.property(t, "switchd.service", "ActiveState")
		return state, state == "active"
	})
	t.Logf("booted, and the switch serves, %v after power-on", time.Since(start).Round(100*time.Millisecond))
	return s
}

// rebooted: the machine goes down with the switch running and comes up with its ports and pages.
func rebooted(ctx context.Context, t *testing.T, s service, m machine) {
	s.run(t, "systemctl", "start", "switchd.service")
	// The agent goes down with the machine, perhaps before it answers.
	_, _ = s.Run(ctx, "systemctl", "poweroff")
	select {
	case <-s.Done():
	case <-time.After(2 * time.Minute):
		t.Fatalf("the machine does not go down:\n%s", tail(s.Console(), 40))
	}
	s = powerOn(ctx, t, m)
	afterBoot(t, s)
	if list := s.run(t, "vhostctl", "ports", "-o", "json"); !strings.Contains(list, `"vm1"`) || !strings.Contains(list, `"vm2"`) {
		t.Errorf("after a reboot its ports are gone: %s", list)
	}
	s.exchange(t)
	t.Run("live upgrade and purge", func(t *testing.T) { upgradedAndPurged(t, s) })
	last := s.run(t, "journalctl", "--no-pager", "-o", "cat", "-b", "-1", "-u", "switchd.service")
	if got := tail(last, 3); !strings.Contains(got, "Deactivated successfully") {
		t.Errorf("the shutdown of the machine stopped the switch like this:\n%s", tail(last, 15))
	}
}

// upgradedAndPurged: the package comes and goes while the switch runs.
func upgradedAndPurged(t *testing.T, s service) {
	pid := s.property(t, "switchd.service", "MainPID")
	if out := s.run(t, "dpkg", "-i", "/root/next.deb"); !strings.Contains(out, "systemctl restart switchd") {
		t.Errorf("the upgrade does not say that the switch that runs is the old one:\n%s", out)
	}
	if now := s.property(t, "switchd.service", "MainPID"); now != pid {
		t.Errorf("the upgrade replaced the switch that runs, process %s, by %s", pid, now)
	}
	s.run(t, "systemctl", "restart", "switchd.service")
	s.exchange(t)
	pid = s.property(t, "switchd.service", "MainPID")
	// What vhostctl wrote into the boot loader's settings is taken back first, as the package says.
	s.run(t, "vhostctl", "hugepages", "undo", "--yes")
	s.run(t, "dpkg", "--purge", "vhostkit")
	for _, path := range []string{"/proc/" + pid, "/run/vhostkit", "/var/lib/vhostkit", "/etc/vhostkit", "/usr/bin/switchd", "/etc/systemd/system/multi-user.target.wants/switchd.service",
		"/etc/systemd/system/sockets.target.wants/switchd.socket"} {
		if _, err := s.Output(s.ctx, "test", "!", "-e", path); err != nil {
			t.Errorf("%s is still there", path)
		}
	}
	for _, unit := range []string{"switchd.service", "switchd.socket", "vhostkit-hugepages.service"} {
		if state := s.property(t, unit, "LoadState") + " " + s.property(t, unit, "ActiveState"); state != "not-found inactive" {
			t.Errorf("%s is %s", unit, state)
		}
	}
}

// afterBoot: nothing failed, and the pages were there before the switch.
func afterBoot(t *testing.T, s service) {
	if failed := s.run(t, "systemctl", "list-units", "--failed", "--plain", "--no-legend"); strings.Contains(failed, "switchd") || strings.Contains(failed, "vhostkit") {
		t.Errorf("failed units:\n%s", failed)
	}
	if got := strings.TrimSpace(s.run(t, "cat", "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")); got != "40" {
		t.Errorf("%s pages of 2M were reserved, want 40\n%s", got, s.run(t, "journalctl", "--no-pager", "-u", "vhostkit-hugepages.service"))
	}
	reserved := s.number(t, "vhostkit-hugepages.service", "ExecMainExitTimestampMonotonic")
	started := s.number(t, "switchd.service", "ExecMainStartTimestampMonotonic")
	if reserved == 0 || started < reserved {
		t.Errorf("the switch started at %d µs, the pages were reserved at %d µs", started, reserved)
	}
	if mounts := s.run(t, "cat", "/proc/mounts"); strings.Count(mounts, " hugetlbfs ") != 1 {
		t.Errorf("hugetlbfs is to be mounted once:\n%s", mounts)
	}
	s.run(t, "vhostctl", "hugepages", "verify")
	if got := s.property(t, "switchd.service", "NotifyAccess"); got != "main" {
		t.Errorf("who may say that the service is ready: %s", got)
	}
	for unit, want := range map[string]string{"switchd.service": "active running", "switchd.socket": "active running", "vhostkit-hugepages.service": "active exited"} {
		if got := s.property(t, unit, "ActiveState") + " " + s.property(t, unit, "SubState"); got != want {
			t.Errorf("%s is %s, want %s", unit, got, want)
		}
	}
	if got := s.number(t, "switchd.service", "NRestarts"); got != 0 {
		t.Errorf("it was restarted %d times", got)
	}
}

// controlSocket: root and the switch's group may speak to it, others not.
func controlSocket(t *testing.T, s service) {
	s.run(t, "vhostctl", "ports")
	ask := []string{"vhostctl", "--control", "/run/vhostkit/switchd.sock", "ports"}
	s.run(t, append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--groups=vhostkit"}, ask...)...)
	r, err := s.Run(s.ctx, append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, ask...)...)
	if err != nil {
		t.Fatal(err)
	}
	if text := r.Stdout + r.Stderr; r.Exit == 0 || !strings.Contains(text, "permission denied") {
		t.Errorf("nobody gets exit code %d: %s", r.Exit, text)
	}
}

func traffic(t *testing.T, s service) {
	s.run(t, "vhostctl", "port", "add", "vm1")
	s.run(t, "vhostctl", "port", "add", "vm2")
	s.exchange(t)
}

// sandbox: what the unit promises holds for the process.
func sandbox(t *testing.T, s service) {
	pid := s.property(t, "switchd.service", "MainPID")
	status := s.run(t, "cat", "/proc/"+pid+"/status")
	// CAP_CHOWN is bit 0, CAP_NET_ADMIN bit 12.
	for _, want := range []string{`CapEff:\s0+1001`, `CapPrm:\s0+1001`, `CapBnd:\s0+1001`, `NoNewPrivs:\s1`, `Seccomp:\s2`} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(status) {
			t.Errorf("the status lacks %s:\n%s", want, status)
		}
	}
	if user := strings.TrimSpace(s.run(t, "stat", "-c", "%U", "/proc/"+pid)); user != "vhostkit" {
		t.Errorf("it runs as %s", user)
	}
	// Root itself, in the switch's view of the files, cannot write to them.
	for path, writable := range map[string]bool{"/usr/x": false, "/etc/x": false, "/etc/vhostkit/x": false, "/var/lib/x": false, "/var/lib/vhostkit/x": false, "/boot/x": false,
		"/sys/kernel/x": false, "/var/lib/vhostkit/switchd/x": true, "/run/vhostkit/x": true, "/tmp/x": true} {
		r, err := s.Run(s.ctx, "nsenter", "-t", pid, "-m", "sh", "-c", "echo >"+path+" && rm "+path)
		if err != nil {
			t.Fatal(err)
		}
		if (r.Exit == 0) != writable {
			t.Errorf("%s: writable is %v, want %v: %s", path, r.Exit == 0, writable, r.Stderr)
		}
	}
	for command, want := range map[string]string{
		"nsenter -t " + pid + " -m chown vhostkit /dev/vda": "Read-only file system",
		// A process in the service's own group: the disk is not for it.
		"echo $$ >/sys/fs/cgroup$(cut -d: -f3 /proc/" + pid + "/cgroup)/cgroup.procs && head -c1 /dev/vda": "Operation not permitted",
	} {
		r, err := s.Run(s.ctx, "sh", "-c", command)
		if err != nil {
			t.Fatal(err)
		}
		if r.Exit == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: exit code %d, %q, want %s", command, r.Exit, r.Stderr, want)
		}
	}
	owner := strings.TrimSpace(s.run(t, "stat", "-c", "%U %a", "/var/lib/vhostkit"))
	if owner != "root 755" {
		t.Errorf("/var/lib/vhostkit, where root's vhostctl keeps what it takes back, is %s", owner)
	}
	if got := s.run(t, "sh", "-c", "grep 'Max locked memory' /proc/"+pid+"/limits"); strings.Count(got, "unlimited") != 2 {
		t.Errorf("locked memory: %s", got)
	}
}

// killed: the service comes back by itself, with its ports, and guests can use it again.
func killed(t *testing.T, s service) {
	before := s.number(t, "switchd.service", "NRestarts")
	pid := s.property(t, "switchd.service", "MainPID")
	s.kill(t, "KILL", pid)
	s.again(t, pid, before)
	if list := s.run(t, "vhostctl", "ports", "-o", "json"); !strings.Contains(list, `"vm1"`) || !strings.Contains(list, `"vm2"`) {
		t.Errorf("after kill -9 its ports are gone: %s", list)
	}
	s.exchange(t)
	// A Go program that crashes ends by default with the code of a wrong configuration, after which it is not to be started again.
	before, pid = s.number(t, "switchd.service", "NRestarts"), s.property(t, "switchd.service", "MainPID")
	s.kill(t, "QUIT", pid)
	s.again(t, pid, before)
}

// kill sends a signal. A small system has only the shell's kill.
func (s service) kill(t *testing.T, signal, pid string) {
	t.Helper()
	s.run(t, "sh", "-c", "kill -"+signal+" "+pid)
}

// again waits for another process of the service that is ready.
func (s service) again(t *testing.T, pid string, restarts int) {
	t.Helper()
	s.until(t, time.Minute, "the service is restarted", func() (string, bool) {
		now := s.property(t, "switchd.service", "MainPID")
		state := s.property(t, "switchd.service", "ActiveState")
		return fmt.Sprintf("%s, process %s (was %s)", state, now, pid), state == "active" && now != pid && now != "0"
	})
	if n := s.number(t, "switchd.service", "NRestarts"); n <= restarts {
		t.Errorf("%d restarts after %d", n, restarts)
	}
}

// watchdog: a process that hangs is ended and started again. The real limits are longer than a test should take.
func watchdog(t *testing.T, s service) {
	s.run(t, "sh", "-ec", "mkdir -p /run/systemd/system/switchd.service.d; printf '[Service]\\nWatchdogSec=2s\\nTimeoutAbortSec=2s\\n' >/run/systemd/system/switchd.service.d/quick.conf; "+
		"systemctl daemon-reload; systemctl restart switchd.service")
	before := s.number(t, "switchd.service", "NRestarts")
	pid := s.property(t, "switchd.service", "MainPID")
	s.kill(t, "STOP", pid)
	s.again(t, pid, before)
	if text := s.run(t, "journalctl", "--no-pager", "-o", "short-monotonic", "-u", "switchd.service"); !strings.Contains(text, "Watchdog timeout") {
		t.Errorf("it was not the watchdog:\n%s", text)
	}
	s.exchange(t)
	s.run(t, "sh", "-ec", "rm -r /run/systemd/system/switchd.service.d; systemctl daemon-reload; systemctl restart switchd.service")
}

// configure writes the configuration.
func (s service) configure(t *testing.T, text string) {
	t.Helper()
	if r, err := s.RunInput(s.ctx, []byte(text), "sh", "-c", "cat >/etc/vhostkit/switchd.toml"); err != nil || r.Exit != 0 {
		t.Fatal(err, r.Stderr)
	}
}

func reloaded(t *testing.T, s service) {
	pid := s.property(t, "switchd.service", "MainPID")
	s.configure(t, "log-level = \"debug\"\nvm2vm = 0\n")
	s.run(t, "systemctl", "reload", "switchd.service")
	s.until(t, 20*time.Second, "the configuration is reloaded", func() (string, bool) {
		text := s.journal(t)
		return text, strings.Contains(text, "configuration reloaded") && strings.Contains(text, "vm2vm")
	})
	if now := s.property(t, "switchd.service", "MainPID"); now != pid {
		t.Errorf("a reload replaced the process %s by %s", pid, now)
	}
	s.configure(t, "")
	s.run(t, "systemctl", "reload", "switchd.service")
}

// tap: the uplink that needs a capability and a device works in the sandbox.
func tap(t *testing.T, s service) {
	s.configure(t, "uplink = \"tap:vhk0\"\n")
	s.run(t, "systemctl", "restart", "switchd.service")
	s.run(t, "test", "-d", "/sys/class/net/vhk0")
	s.exchange(t)
	s.configure(t, "")
	s.run(t, "systemctl", "restart", "switchd.service")
}

// badConfiguration: the service fails with the reason in its journal, and does not try for ever; repaired, it starts.
func badConfiguration(t *testing.T, s service) {
	s.configure(t, "nonsense = 1\n")
	r, err := s.Run(s.ctx, "systemctl", "restart", "switchd.service")
	if err != nil {
		t.Fatal(err)
	}
	if r.Exit == 0 {
		t.Error("systemctl restart is content with a configuration that nobody understands")
	}
	if state := s.property(t, "switchd.service", "ActiveState"); state != "failed" {
		t.Errorf("with a wrong configuration the service is %s: it must not be started again and again", state)
	}
	if state := s.property(t, "switchd.socket", "ActiveState"); state != "active" {
		t.Errorf("its socket is %s", state)
	}
	if text := s.journal(t); !strings.Contains(text, "nonsense") {
		t.Errorf("the journal does not say why:\n%s", text)
	}
	s.configure(t, "")
	s.run(t, "systemctl", "start", "switchd.service")
	s.exchange(t)
}

// stopped: a stop is in order and leaves nothing behind but what the switch remembers; who asks for the control socket starts it again.
func stopped(t *testing.T, s service) {
	begun := time.Now()
	s.run(t, "systemctl", "stop", "switchd.service")
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if result := s.property(t, "switchd.service", "Result"); result != "success" {
		t.Errorf("the stop ended with %s\n%s", result, s.journal(t))
	}
	if list := s.run(t, "vhostctl", "ports", "-o", "json"); !strings.Contains(list, `"vm1"`) {
		t.Errorf("its ports are gone: %s", list)
	}
	if state := s.property(t, "switchd.service", "ActiveState"); state != "active" {
		t.Errorf("the service, asked by its socket, is %s", state)
	}
	s.exchange(t)
	s.run(t, "systemctl", "stop", "switchd.socket", "switchd.service")
	if r, err := s.Run(s.ctx, "vhostctl", "ports"); err != nil || r.Exit == 0 {
		t.Errorf("stopped with its socket, it answers: %v %+v", err, r)
	}
}
