package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errInside means that the inner process failed and has printed why.
var errInside = errors.New("the demo failed")

// patience is how long the inner process may take to clean up.
const patience = 15 * time.Second

// outside prepares what belongs to the whole machine, runs the inner process, and puts everything back.
func outside(ctx context.Context, o options, out *report) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the demo needs root for its tap interface: run \"sudo make demo\"")
	}
	for _, name := range []string{"switchd", "vhostctl"} {
		if _, err := os.Stat(filepath.Join(o.bin, name)); err != nil {
			return fmt.Errorf("%w: run \"make build\"", err)
		}
	}
	dir, err := os.MkdirTemp("", "vhostkit-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	pages, restore := takeHugepages(guestMemoryMiB * 2 / 2)
	defer func() { err = errors.Join(err, restore()) }()

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVariable+"="+dir, hugepagesVariable+"="+pages)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Setpgid:    true, // Ctrl-C comes to this process alone, which passes it on
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in namespaces of its own: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		defer func() { err = errors.Join(context.Cause(ctx), err) }()
		// When the first process of a process namespace ends, the kernel ends all others in it.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err = <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			err = <-ended
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return errInside
	}
	return err
}

const (
	hugepagesVariable = "VHOSTKIT_DEMO_HUGEPAGES"
	hugepagesDir      = "/sys/kernel/mm/hugepages/hugepages-2048kB"
)

// takeHugepages makes sure that so many huge pages of 2 MiB are free. It returns how many it has for the guests, or
// the reason why there are none, and a function that gives back what it took.
func takeHugepages(want int) (string, func() error) {
	nothing := func() error { return nil }
	total, err1 := readNumber("nr_hugepages")
	free, err2 := readNumber("free_hugepages")
	reserved, err3 := readNumber("resv_hugepages")
	if err := errors.Join(err1, err2, err3); err != nil {
		return "none: this kernel has no huge pages of 2 MiB", nothing
	}
	missing := want - (free - reserved)
	if missing <= 0 {
		return strconv.Itoa(want), nothing
	}
	give := func() error {
		// Somebody else may have changed the number meanwhile: take back our share only.
		now, err := readNumber("nr_hugepages")
		if err == nil {
			err = writeNumber("nr_hugepages", max(total, now-missing))
		}
		if err != nil {
			return fmt.Errorf("put back the number of huge pages, which was %d: %w", total, err)
		}
		return nil
	}
	if err := writeNumber("nr_hugepages", total+missing); err != nil {
		return "none: " + err.Error(), nothing
	}
	// The kernel gives as many as it finds, without an error.
	if got, err := readNumber("nr_hugepages"); err != nil || got < total+missing {
		reason := fmt.Sprintf("none: %d more of 2 MiB wanted, only %d to be had", missing, got-total)
		if err := writeNumber("nr_hugepages", total); err != nil {
			reason += "; " + err.Error()
		}
		return reason, nothing
	}
	return strconv.Itoa(want), give
}

func readNumber(name string) (int, error) {
	text, err := os.ReadFile(filepath.Join(hugepagesDir, name))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func writeNumber(name string, n int) error {
	return os.WriteFile(filepath.Join(hugepagesDir, name), []byte(strconv.Itoa(n)), 0)
}
