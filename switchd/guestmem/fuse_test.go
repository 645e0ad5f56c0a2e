package guestmem

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMapRefusesFUSE maps from a FUSE file system that nobody serves. It belongs to another user, so the kernel answers for it at once.
func TestMapRefusesFUSE(t *testing.T) {
	if os.Getuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("mounting takes root")
	}
	channel, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/fuse (modprobe fuse): %v", err)
	}
	defer unix.Close(channel)
	dir := t.TempDir()
	if err := unix.Mount("vhostkit-test", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=65534,group_id=65534", channel)); err != nil {
		t.Fatalf("mount FUSE on %s: %v", dir, err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := Map([]RegionSpec{{Size: 0x1000, FD: fd}}); !errors.Is(err, ErrRegion) || !strings.Contains(err.Error(), "FUSE") {
		t.Errorf("%v, want ErrRegion that names FUSE", err)
	}
}
