package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"vhostkit/internal/atomicfile"
)

// kvmPatience is how long the probe's kernel may take; where KVM works it needs about one second.
const kvmPatience = 8 * time.Second

// Accelerator returns "kvm" if a kernel has been seen to run under KVM with that CPU model, and "tcg" otherwise. That
// /dev/kvm opens proves nothing: it may refuse the model, or never run the guest's first instructions. The probe's
// result is kept in the cache until the machine boots again. VHOSTKIT_ACCEL overrides it.
func Accelerator(ctx context.Context, qemu, cpuModel string, k Kernel) string {
	if own := os.Getenv("VHOSTKIT_ACCEL"); own != "" {
		return own
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg"
	}
	f.Close()
	note := probeNote(qemu, cpuModel, k)
	if known, err := os.ReadFile(note); err == nil {
		if s := strings.TrimSpace(string(known)); s == "kvm" || s == "tcg" {
			return s
		}
	}
	accel := "tcg"
	if probe(ctx, qemu, "kvm", cpuModel, k, kvmPatience) {
		accel = "kvm"
	}
	// Without a note the next guest probes again, which only costs time. A probe cut short says nothing.
	if note != "" && ctx.Err() == nil {
		_ = atomicfile.Write(note, []byte(accel+"\n"), 0o644)
	}
	return accel
}

// probeNote is the file for the probe's result, valid for this boot of the machine and these programs; empty if there
// is no place for it.
func probeNote(qemu, cpuModel string, k Kernel) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	cache, err := CacheDir()
	if err != nil || os.MkdirAll(cache, 0o755) != nil {
		return ""
	}
	stamp := fmt.Sprintf("%s %s %s %s", boot, qemu, cpuModel, k.Image)
	if info, err := os.Stat(qemu); err == nil {
		stamp += info.ModTime().String()
	}
	sum := sha256.Sum256([]byte(stamp))
	return filepath.Join(cache, "accel-"+hex.EncodeToString(sum[:6]))
}

// probe boots the kernel without a root file system. It has run if it got so far as to panic over that.
func probe(ctx context.Context, qemu, accel, cpuModel string, k Kernel, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dir, err := os.MkdirTemp("", "vhostkit-probe-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	console := filepath.Join(dir, "console")
	cmd := exec.Command(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "pc,accel="+accel, "-cpu", cpuModel, "-m", "256M", "-kernel", unpackKernel(k.Image),
		"-append", "console=ttyS0 quiet panic=-1 nokaslr mitigations=off",
		"-chardev", "file,id=console,path="+comma(console), "-serial", "chardev:console")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return false
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		// A process that hangs inside KVM may not even die. It is not waited for.
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
		}
		return false
	}
	text, err := os.ReadFile(console)
	return err == nil && bytes.Contains(text, []byte("Kernel panic - not syncing: VFS"))
}
