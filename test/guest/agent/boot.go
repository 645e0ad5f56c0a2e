package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/test/guest/proto"
)

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("create mount point: %w", err)
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

// boot makes a usable system of the bare initramfs.
func boot() error {
	for _, m := range []mount{
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"devtmpfs", "/dev", "devtmpfs", 0, ""},
		{"devpts", "/dev/pts", "devpts", 0, ""},
		{"tmpfs", "/dev/shm", "tmpfs", 0, ""},
		{"tmpfs", "/tmp", "tmpfs", 0, ""},
		{"tmpfs", "/run", "tmpfs", 0, ""},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := os.Setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin"); err != nil {
		return err
	}
	if err := loadModules("/etc/rig/modules"); err != nil {
		return err
	}
	return loopbackUp()
}

// loadModules loads the modules that the file lists, one a line: path, then parameters. The order is the rig's.
func loadModules(list string) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		path, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		if path == "" {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), params, 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", path, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// mountHost mounts the host's root, which is read-only, at /host and puts the guest's own moving parts over it, so
// that the host's programs run there under chroot.
func mountHost() error {
	if _, err := os.Stat("/host/proc/self"); err == nil {
		return nil
	}
	if err := (mount{"hostroot", "/host", "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,msize=524288,cache=loose"}).do(); err != nil {
		return err
	}
	for _, dir := range []string{"proc", "sys", "dev"} {
		if err := (mount{"/" + dir, "/host/" + dir, "", unix.MS_BIND | unix.MS_REC, ""}).do(); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "run"} {
		if err := (mount{"tmpfs", "/host/" + dir, "tmpfs", 0, ""}).do(); err != nil {
			return err
		}
	}
	return nil
}

// openPort opens the rig's virtio-serial port, which the kernel may create a little after the module is loaded.
func openPort(patience time.Duration) (io.ReadWriter, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			text, err := os.ReadFile(n)
			if err != nil || strings.TrimSpace(string(text)) != proto.Port {
				continue
			}
			dev := "/dev/" + filepath.Base(filepath.Dir(n))
			fd, err := unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("open %s: %w", dev, err)
			}
			return port(fd), nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no virtio-serial port named %s after %v", proto.Port, patience)
		}
	}
}

// port is a virtio-serial port with blocking reads: the kernel reports the end of file while the other side is away,
// which is not the end here.
type port int

func (p port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(p), b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n > 0:
			return n, nil
		default:
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (p port) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Write(int(p), b[done:])
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return done, err
		}
		done += max(n, 0)
	}
	return done, nil
}
