package packages

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// try runs a program of this machine and returns all of what it printed.
func try(t *testing.T, limit time.Duration, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_LOG_TARGET=console"}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), errors.Join(err, ctx.Err())
}

// command is try for what must succeed.
func command(t *testing.T, limit time.Duration, argv ...string) string {
	t.Helper()
	out, err := try(t, limit, argv...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// tryIn runs a program in a root, with namespaces of its own: what it mounts or leaves behind ends with it.
func tryIn(t *testing.T, root string, argv ...string) (string, error) {
	t.Helper()
	script := `mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --make-rslave "$0/dev" && mount --rbind /sys "$0/sys" && mount --make-rslave "$0/sys" && mount -t tmpfs tmpfs "$0/run" && exec chroot "$0" "$@"`
	return try(t, 3*time.Minute, append([]string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, root}, argv...)...)
}

// in is tryIn for what must succeed.
func in(t *testing.T, root string, argv ...string) string {
	t.Helper()
	out, err := tryIn(t, root, argv...)
	if err != nil {
		t.Fatalf("%s in the clean root: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// exitCode is that of a program that ran, and -1 of one that did not.
func exitCode(err error) int {
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.ExitCode()
	}
	return -1
}
