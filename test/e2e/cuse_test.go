package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostkit/test/guest"
	"vhostkit/test/internal/proc"
)

// A guest within the guest: a QEMU that qemu-wrap starts with -netdev tap,vhost=on,vhostfd=N, whose firmware (iPXE) boots from the network.
type innerGuest struct {
	*guest.Process
	g    *guest.Guest
	name string
}

// Who is who in these tests.
const (
	bootServerIP = "10.0.0.1"
	askerIP      = "10.0.0.2"
	askerMAC     = "52:54:00:00:00:0a"
	answererIP   = "10.0.0.3"
	answererMAC  = "52:54:00:00:00:0b"
)

// bootOuter boots the guest whose kernel has CUSE.
func bootOuter(ctx context.Context, t *testing.T) *guest.Guest {
	t.Helper()
	g, err := guest.Start(ctx, guest.Config{
		Name: "cuse", Accel: "tcg", MemoryMiB: 1536, CPUs: 2, HostRoot: true, Modules: []string{"cuse", "tun", "af_packet"},
		BootTimeout: 4 * time.Minute,
		Files: map[string]string{
			"/programs/vhostctl": commandPath(t, "vhostctl"), "/programs/switchd": commandPath(t, "switchd"),
			"/programs/qemu-wrap": commandPath(t, "qemu-wrap"), "/programs/pinger": testProgram(ctx, t, "pinger/cmd/pinger"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Kill)
	if err := g.MountHost(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Shell(ctx, `cp /programs/* /host/tmp
chmod 666 /dev/net/tun
chmod 1777 /host/tmp`); err != nil {
		t.Fatal(err)
	}
	return g
}

// startInner starts a guest in the guest through qemu-wrap in cuse mode; user 0 is root.
func startInner(ctx context.Context, t *testing.T, g *guest.Guest, name, qemu, device, mac string, user int) *innerGuest {
	t.Helper()
	tap := "tap-" + name
	script := fmt.Sprintf("ip tuntap add dev %s mode tap user %d 2>/dev/null; ", tap, user)
	if user != 0 {
		script += fmt.Sprintf("exec setpriv --reuid %d --regid %d --clear-groups ", user, user)
	} else {
		script += "exec "
	}
	script += fmt.Sprintf("env QEMU_WRAP_MODE=cuse QEMU_WRAP_US_VHOST_PATH=%s QEMU_WRAP_QEMU_SOCKET=/tmp/qemu.sock QEMU_WRAP_EMUL_PATH=%s "+
		"/tmp/qemu-wrap -name %s -machine pc,accel=tcg,graphics=off -m 64 -nodefaults -display none -serial stdio "+
		"-netdev tap,id=n1,ifname=%s,script=no,downscript=no,vhost=on -device virtio-net-pci,netdev=n1,mac=%s,vectors=0 -boot n", device, qemu, name, tap, mac)
	p, err := g.Background(ctx, "chroot", "/host", "/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	i := &innerGuest{p, g, name}
	t.Cleanup(func() {
		if t.Failed() {
			if res, _, err := p.Output(context.Background()); err == nil {
				t.Logf("inner guest %s: %s", name, proc.Tail(res.Stdout+res.Stderr, 15))
			}
		}
		_ = p.Signal(context.Background(), syscall.SIGKILL)
	})
	return i
}

// says waits until the inner guest has printed a text, and refuses another.
func (i *innerGuest) says(ctx context.Context, t *testing.T, text, not string, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := i.Expect(ctx, text)
	if err != nil || not != "" && strings.Contains(out, not) {
		t.Fatalf("inner guest %s: %v\n%s", i.name, err, proc.Tail(out, 30))
	}
}

// ready waits until that many ports are.
func (s *guestSwitch) ready(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("%d ports are READY", n), func() bool {
		out, err := s.g.Output(ctx, "chroot", "/host", "/tmp/vhostctl", "--control", guestControl, "ports")
		return err == nil && strings.Count(out, "READY") == n
	})
}

// holds counts what the switch has open and mapped of its guests.
func (s *guestSwitch) holds(ctx context.Context, t *testing.T) string {
	t.Helper()
	out, err := s.g.Shell(ctx, `p=$(pidof switchd); echo $(ls -l /proc/$p/fd | grep -v -c socket:) $(grep -c memfd: /proc/$p/maps)`)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// bootServer is a front-end by vhost-user that gives the inner guests their addresses and scripts.
func bootServer(ctx context.Context, t *testing.T, g *guest.Guest) {
	t.Helper()
	scripts := askerMAC + "=" + askerIP + "=:again,ping -c 10 " + answererIP + " && echo EXCHANGE GOOD || echo EXCHANGE BAD,sleep 1,goto again;" +
		answererMAC + "=" + answererIP + "=echo SERVING,:again,sleep 1,goto again"
	p, err := g.Background(ctx, "chroot", "/host", "/tmp/pinger", "--socket", guestSocket, "--mac", "52:54:00:00:00:01", "--ip", bootServerIP,
		"--boot", scripts, "--limit", "20m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Signal(context.Background(), syscall.SIGKILL) })
	if out, err := p.Expect(ctx, "ready"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// pingInner lets a front-end by vhost-user ping an inner guest; each answer is compared.
func pingInner(ctx context.Context, t *testing.T, g *guest.Guest, ip string) {
	t.Helper()
	out := hostRun(ctx, t, g, "/tmp/pinger", "--socket", guestSocket, "--mac", "52:54:00:00:00:02", "--ip", "10.0.0.9", "--peer", ip, "--count", "50")
	if !strings.Contains(out, "answers to 50 echo requests, none wrong") {
		t.Errorf("ping %s: %s", ip, out)
	}
}

// TestCUSE: two QEMUs of different age, one of them of a user without rights, plug into two character devices of one switch with
// -netdev tap,vhost=on,vhostfd=N. Their firmware boots over the switch from a vhost-user client, and one pings the other. Then one is killed
// with -9, and the switch is stopped under traffic.
func TestCUSE(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	g := bootOuter(ctx, t)
	g.MustRun(ctx, t, "mknod", "/dev/usvhost", "c", "10", "250") // what a killed switch left behind
	s := startGuestSwitch(ctx, t, g, "--backend", "both", "--mergeable", "1", "--dev-basename", "usvhost", "--dev-basename", "second", "--cuse-mode", "0600",
		"--device", "/dev/second", "--qemu-socket", "/tmp/qemu.sock", "--log-level", "info")
	eventually(t, time.Minute, "the socket for QEMU processes", func() bool {
		_, err := g.Output(ctx, "chmod", "666", "/host/tmp/qemu.sock")
		return err == nil
	})
	bootServer(ctx, t, g)
	s.ready(ctx, t, 1)
	before := s.holds(ctx, t)

	answerer := startInner(ctx, t, g, "answerer", "/usr/bin/qemu-system-x86_64", "/dev/second", answererMAC, 65534)
	answerer.says(ctx, t, "SERVING", "", 2*time.Minute)
	asker := startInner(ctx, t, g, "asker", newQEMU(ctx, t), "/dev/usvhost", askerMAC, 0)
	asker.says(ctx, t, "EXCHANGE GOOD", "EXCHANGE BAD", 2*time.Minute)
	s.ready(ctx, t, 3)
	pingInner(ctx, t, g, askerIP)
	pingInner(ctx, t, g, answererIP)
	if out, err := g.Shell(ctx, "ls -l /dev/usvhost /dev/second; chroot /host /tmp/vhostctl --control "+guestControl+" ports"); err != nil ||
		strings.Count(out, "crw-------") != 2 || !strings.Contains(out, askerMAC) || !strings.Contains(out, answererMAC) {
		t.Errorf("%v\n%s", err, out)
	}

	t.Run("private memory", func(t *testing.T) { refusesPrivateMemory(ctx, t, g, s) })
	t.Run("killed", func(t *testing.T) {
		if err := asker.Signal(ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.ready(ctx, t, 2)
		pingInner(ctx, t, g, answererIP)
		again := startInner(ctx, t, g, "again", newQEMU(ctx, t), "/dev/usvhost", askerMAC, 0)
		again.says(ctx, t, "EXCHANGE GOOD", "EXCHANGE BAD", 2*time.Minute)
		for _, i := range []*innerGuest{again, answerer} {
			if err := i.Signal(ctx, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		s.ready(ctx, t, 1)
		if after := s.holds(ctx, t); after != before {
			t.Errorf("descriptors and mappings: %s before the guests, %s after", before, after)
		}
	})
	t.Run("switch stopped", func(t *testing.T) {
		last := startInner(ctx, t, g, "last", newQEMU(ctx, t), "/dev/usvhost", askerMAC, 0)
		answerer := startInner(ctx, t, g, "answerer2", "/usr/bin/qemu-system-x86_64", "/dev/second", answererMAC, 65534)
		answerer.says(ctx, t, "SERVING", "", 2*time.Minute)
		last.says(ctx, t, "EXCHANGE GOOD", "", 2*time.Minute)
		s.stop(ctx, t)
		if out, err := g.Output(ctx, "ls", "/dev/usvhost", "/dev/second"); err == nil {
			t.Errorf("the devices are still there: %s", out)
		}
		last.says(ctx, t, "EXCHANGE BAD", "", time.Minute) // it lives, without network
		if _, running, err := last.Output(ctx); err != nil || !running {
			t.Errorf("QEMU has ended with the switch: %v", err)
		}
	})
	t.Run("capabilities", func(t *testing.T) { fourCapabilities(ctx, t, g) })
}

// fourCapabilities: a switch of a user of its own, with no more rights than systemd/examples/cuse.conf and the unit give, serves QEMUs of two other users.
func fourCapabilities(ctx context.Context, t *testing.T, g *guest.Guest) {
	t.Helper()
	const capabilities = "+sys_ptrace,+dac_override,+chown,+fowner"
	s := startGuestSwitchBy(ctx, t, g, "/usr/bin/setpriv --reuid 64055 --regid 64055 --clear-groups --inh-caps "+capabilities+" --ambient-caps "+
		capabilities+" --bounding-set -all,"+capabilities, "--backend", "both", "--dev-basename", "usvhost", "--mergeable", "1", "--cuse-mode", "0600",
		"--device", "/dev/usvhost", "--qemu-socket", "/tmp/qemu.sock")
	status, err := g.Shell(ctx, "grep -e ^Uid -e ^CapEff -e ^CapBnd /proc/$(pidof switchd)/status; chmod 666 /host/tmp/qemu.sock")
	if err != nil || !strings.Contains(status, "64055") || strings.Count(status, "000000000008000b") != 2 {
		t.Fatalf("%v\n%s", err, status)
	}
	bootServer(ctx, t, g)
	answerer := startInner(ctx, t, g, "answerer3", "/usr/bin/qemu-system-x86_64", "/dev/usvhost", answererMAC, 65534)
	answerer.says(ctx, t, "SERVING", "", 2*time.Minute)
	asker := startInner(ctx, t, g, "asker3", newQEMU(ctx, t), "/dev/usvhost", askerMAC, 0)
	asker.says(ctx, t, "EXCHANGE GOOD", "EXCHANGE BAD", 2*time.Minute)
	s.stop(ctx, t)
	if out, err := g.Output(ctx, "ls", "/dev/usvhost"); err == nil {
		t.Errorf("the device is still there: %s", out)
	}
}

// refusesPrivateMemory: QEMU is started without qemu-wrap, so that the guest's memory is its own.
func refusesPrivateMemory(ctx context.Context, t *testing.T, g *guest.Guest, s *guestSwitch) {
	t.Helper()
	p, err := g.Background(ctx, "chroot", "/host", "/bin/sh", "-c", `exec 7<>/dev/usvhost; exec qemu-system-x86_64 -machine pc,accel=tcg,graphics=off -m 64 \
-nodefaults -display none -serial stdio -netdev tap,id=n1,ifname=tap-private,script=no,downscript=no,vhost=on,vhostfd=7 \
-device virtio-net-pci,netdev=n1,vectors=0 -boot n`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Signal(context.Background(), syscall.SIGKILL) }()
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if out, err := s.Expect(limited, "private"); err != nil || !strings.Contains(out, "share=on") {
		t.Errorf("switchd says: %v\n%s", err, proc.Tail(out, 20))
	}
	if out, err := p.Expect(limited, "unable to start vhost net"); err != nil {
		t.Errorf("QEMU says: %v\n%s", err, proc.Tail(out, 20))
	}
}
