package e2e

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostkit/test/docs"
	"vhostkit/test/guest"
	"vhostkit/test/internal/proc"
)

// TestFirstGuests types what the README shows for the first two guests: they boot, and one pings the other. Without KVM
// the lines are changed as the README says.
func TestFirstGuests(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := docs.Blocks("README.md", string(text))
	if err != nil {
		t.Fatal(err)
	}
	sw := startSwitchd(t)
	image := filepath.Join(sw.Dir, "guest")
	if out, err := exec.Command("../../test/setup/guest-image.sh", image).CombinedOutput(); err != nil {
		t.Fatalf("guest-image.sh: %v\n%s", err, out)
	}
	replace := []string{"sudo ", "exec ", "/run/vhostkit/vhost.sock", sw.Socket, "bin/guest", image}
	if accelerator(t) != "kvm" {
		replace = append(replace, "-accel kvm", "-accel tcg")
	}
	var consoles []*proc.Buffer
	var keyboard io.Writer
	for _, b := range blocks {
		if b.Test != "guest" {
			continue
		}
		line := strings.NewReplacer(replace...).Replace(b.Text)
		if strings.Contains(line, "-accel tcg") {
			line = regexp.MustCompile(`mac=[0-9a-f:]+`).ReplaceAllString(line, "$0,vectors=0")
		}
		cmd := exec.Command("/bin/sh", "-c", line)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		console := &proc.Buffer{}
		cmd.Stdout, cmd.Stderr = console, console
		if keyboard, err = cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		consoles = append(consoles, console)
	}
	if len(consoles) != 2 {
		t.Fatalf("the README has %d guests", len(consoles))
	}
	for i, c := range consoles {
		address := []string{"inet 10.77.0.1/24", "inet 10.77.0.2/24"}[i]
		end := time.Now().Add(2 * time.Minute)
		for ; !strings.Contains(c.String(), address); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("guest %d does not boot:\n%s", i+1, proc.Tail(c.String(), 40))
			}
		}
	}
	if _, err := io.WriteString(keyboard, "ping -c 3 10.77.0.1\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the second guest pings the first", func() bool {
		return strings.Contains(consoles[1].String(), " 0% packet loss")
	})
}

// accelerator is "kvm" where that runs guests.
func accelerator(t *testing.T) string {
	t.Helper()
	qemu, err := guest.FindQEMU()
	if err != nil {
		t.Fatal(err)
	}
	k, err := guest.FindKernel()
	if err != nil {
		t.Fatal(err)
	}
	return guest.Accelerator(context.Background(), qemu, "max", k)
}
