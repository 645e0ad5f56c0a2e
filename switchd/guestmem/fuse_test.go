package guestmem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/foreign"
)

// fuseMount mounts a FUSE file system of a user's, and gives the channel to its server, which is the test, and a descriptor of its root.
// Closing the channel ends it.
func fuseMount(t *testing.T, user int) (dir string, channel, root int) {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("mounting takes root")
	}
	channel, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/fuse (modprobe fuse): %v", err)
	}
	dir = t.TempDir()
	if err := unix.Mount("vhostkit-test", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", channel, user, user)); err != nil {
		t.Fatalf("mount FUSE on %s: %v", dir, err)
	}
	root, err = unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(channel)
		unix.Close(root)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, channel, root
}

// serveFUSE answers as an empty file system until the channel is closed.
func serveFUSE(channel int) {
	const getattr, statfs, initialize = 3, 17, 26
	e := binary.NativeEndian
	for b := make([]byte, 1<<17); ; {
		n, err := unix.Read(channel, b)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		answer, errno := []byte(nil), -int32(unix.ENOENT)
		switch e.Uint32(b[4:]) {
		case initialize:
			answer, errno = make([]byte, 64), 0
			e.PutUint32(answer, 7)
			e.PutUint32(answer[4:], 31)
			e.PutUint32(answer[20:], 4096) // max_write: less than the buffer
		case getattr:
			answer, errno = make([]byte, 104), 0
			e.PutUint64(answer[16:], 1)
			e.PutUint32(answer[16+60:], unix.S_IFDIR|0o755)
			e.PutUint32(answer[16+64:], 2)
		case statfs:
			answer, errno = make([]byte, 80), 0
			e.PutUint32(answer[40:], 4096)
			e.PutUint32(answer[44:], 255)
		}
		out := e.AppendUint32(nil, uint32(16+len(answer)))
		out = e.AppendUint32(out, uint32(errno))
		out = e.AppendUint64(out, e.Uint64(b[8:]))
		_, _ = unix.Write(channel, append(out, answer...))
	}
}

// TestMapRefusesFUSE maps from a FUSE file system that nobody serves. It belongs to another user, so the kernel answers for it at once.
func TestMapRefusesFUSE(t *testing.T) {
	_, _, root := fuseMount(t, 65534)
	for _, any := range []bool{false, true} {
		if _, err := (Mapper{AnyFile: any}).Map([]RegionSpec{{Size: 0x1000, FD: root}}); !errors.Is(err, ErrRegion) || !strings.Contains(err.Error(), "FUSE") {
			t.Errorf("any file %v: %v, want ErrRegion that names FUSE", any, err)
		}
	}
}

// TestFUSEThatDoesNotAnswer: a file system that lets the question what it is wait is refused after a second.
func TestFUSEThatDoesNotAnswer(t *testing.T) {
	_, _, root := fuseMount(t, 0)
	_, err := (Mapper{Files: foreign.New(nil)}).Map([]RegionSpec{{Size: 0x1000, FD: root}})
	if !errors.Is(err, ErrRegion) || !errors.Is(err, foreign.ErrSlow) {
		t.Errorf("%v, want ErrRegion and ErrSlow", err)
	}
}

// overlay mounts one and gives a file on it.
func overlay(t *testing.T, lower string) int {
	t.Helper()
	layers, dir := t.TempDir(), t.TempDir()
	mount := func(source, at, kind, options string) {
		t.Helper()
		if err := unix.Mount(source, at, kind, 0, options); err != nil {
			t.Fatalf("mount %s on %s: %v", kind, at, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mount("vhostkit-test", layers, "tmpfs", "")
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(layers, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if lower == "" {
		lower = filepath.Join(layers, "lower")
	}
	mount("vhostkit-test", dir, "overlay", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, layers, layers))
	return file(t, dir)
}

// file makes a file of a page in a directory.
func file(t *testing.T, dir string) int {
	t.Helper()
	f, err := os.CreateTemp(dir, "vhostkit-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		os.Remove(f.Name())
	})
	if err := f.Truncate(0x1000); err != nil {
		t.Fatal(err)
	}
	return int(f.Fd())
}

// TestOverlayIsRefused: whatever lies under an overlay, its pages may come from FUSE, and fstatfs(2) does not tell.
func TestOverlayIsRefused(t *testing.T) {
	dir, channel, _ := fuseMount(t, 0)
	go serveFUSE(channel)
	for name, lower := range map[string]string{"on tmpfs": "", "on FUSE": dir} {
		fd := overlay(t, lower)
		for _, any := range []bool{false, true} {
			_, err := (Mapper{AnyFile: any}).Map([]RegionSpec{{Size: 0x1000, FD: fd}})
			if !errors.Is(err, ErrRegion) || !strings.Contains(err.Error(), "overlay") {
				t.Errorf("%s, any file %v: %v, want ErrRegion that names the overlay", name, any, err)
			}
		}
	}
}
