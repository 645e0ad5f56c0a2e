package guest

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fakeQEMU is a program in QEMU's place; the probe's decision is about how that behaves.
func fakeQEMU(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// findConsole is the start of a script: it sets $c to the console's file.
const findConsole = `for a in "$@"; do case $a in file,id=console,path=*) c=${a##*path=};; esac; done
`

func TestProbeDecides(t *testing.T) {
	k := Kernel{Image: "/nowhere/vmlinuz"}
	for _, c := range []struct {
		name, script string
		want         bool
	}{
		{"the kernel got through", findConsole + `echo "[ 0.9] Kernel panic - not syncing: VFS: Unable to mount root fs" > "$c"`, true},
		{"it hangs", findConsole + `echo "early" > "$c"; exec sleep 60`, false},
		{"it hangs and ignores signals", `trap "" TERM INT; while :; do sleep 60; done`, false},
		{"it aborts", `kill -ABRT $$`, false},
		{"it ends without a word", `exit 0`, false},
		{"the kernel died earlier", findConsole + `echo "Kernel panic - not syncing: Attempted to kill init" > "$c"`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			if got := probe(t.Context(), fakeQEMU(t, c.script), "kvm", "max", k, time.Second); got != c.want {
				t.Errorf("probe = %v, want %v", got, c.want)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %v with a patience of one second", took)
			}
		})
	}
	if probe(t.Context(), "/no/such/qemu", "kvm", "max", k, time.Second) {
		t.Error("a QEMU that does not exist ran a guest")
	}
}

// The probe's success must not be out of reach: under emulation the same kernel gets through.
func TestProbeSucceedsWithTheRealKernel(t *testing.T) {
	qemu, err := FindQEMU()
	if err != nil {
		t.Fatal(err)
	}
	k, err := FindKernel()
	if err != nil {
		t.Fatal(err)
	}
	if !probe(t.Context(), qemu, "tcg", "max", k, 60*time.Second) {
		t.Error("the probe says that the emulator does not run the kernel")
	}
}

func TestAcceleratorKeepsTheResult(t *testing.T) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Log("no /dev/kvm here: the answer is always tcg")
	}
	t.Setenv("VHOSTKIT_CACHE", t.TempDir())
	t.Setenv("VHOSTKIT_ACCEL", "")
	k := Kernel{Image: "/nowhere/vmlinuz"}
	qemu := fakeQEMU(t, findConsole+`echo "Kernel panic - not syncing: VFS" > "$c"`)
	first := Accelerator(t.Context(), qemu, "max", k)
	note := probeNote(qemu, "max", k)
	if _, err := os.Stat(note); first == "kvm" && err != nil {
		t.Fatalf("no note was left: %v", err)
	}
	if first == "kvm" {
		if err := os.WriteFile(note, []byte("tcg\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := Accelerator(t.Context(), qemu, "max", k); got != "tcg" {
			t.Errorf("Accelerator = %q, the note says tcg", got)
		}
	}
	if probeNote(qemu, "qemu64", k) == note {
		t.Error("another processor model has the same note")
	}
	t.Setenv("VHOSTKIT_ACCEL", "tcg")
	if got := Accelerator(t.Context(), qemu, "max", k); got != "tcg" {
		t.Errorf("Accelerator = %q against VHOSTKIT_ACCEL", got)
	}
}
