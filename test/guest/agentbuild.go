package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// agentPackage is the guest's first process.
const agentPackage = "vhostkit/test/guest/agent"

// buildAgent returns the agent's binary: the file VHOSTKIT_AGENT, or else built if it is not there or out of date. For
// that the working directory must be inside this module, as it is in tests.
func buildAgent(ctx context.Context) ([]byte, error) {
	if path := os.Getenv("VHOSTKIT_AGENT"); path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("the guests' agent: %w", err)
		}
		return data, nil
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("create the cache: %w (set VHOSTKIT_CACHE to a directory you may write)", err)
	}
	// The go command leaves a file that is up to date alone, but does not expect another to write it meanwhile.
	lock, err := os.OpenFile(filepath.Join(cache, ".agent.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
	}
	out := filepath.Join(cache, "agent")
	cmd := exec.CommandContext(ctx, findGo(), "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, agentPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the guests' agent: %w\n%s", err, text)
	}
	return os.ReadFile(out)
}

func findGo() string {
	for _, c := range []string{os.Getenv("VHOSTKIT_GO"), "go", filepath.Join(os.Getenv("GOROOT"), "bin/go"), "/usr/local/go/bin/go"} {
		if path, err := exec.LookPath(c); err == nil {
			return path
		}
	}
	return "go"
}
