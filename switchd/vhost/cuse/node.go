package cuse

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/unixsocket"
)

// node is the device's file /dev/NAME, and what the kernel says of the device.
type node struct {
	path  string // /dev/NAME
	class string // /sys/class/cuse
	chars string // /sys/dev/char: what device numbers stand for
}

func nodeOf(name string) node {
	return node{path: "/dev/" + name, class: "/sys/class/cuse", chars: "/sys/dev/char"}
}

// prepare makes sure that the name is free, and removes a node that stands for no device any more.
func (n node) prepare() error {
	if _, err := os.Stat(filepath.Join(n.class, filepath.Base(n.path))); err == nil {
		return fmt.Errorf("%s is served already: another switchd is running, or another CUSE device has that name (option --dev-basename)", n.path)
	}
	var st unix.Stat_t
	err := unix.Lstat(n.path, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at %s: %w", n.path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return fmt.Errorf("%s is there and is no character device: remove it, or choose another name (option --dev-basename)", n.path)
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	if _, err := os.Stat(filepath.Join(n.chars, number)); err == nil {
		return fmt.Errorf("%s is a device of the kernel's (%s): choose another name (option --dev-basename), or unload its module", n.path, number)
	}
	if err := unix.Unlink(n.path); err != nil {
		return fmt.Errorf("removing %s, which stands for no device any more: %w", n.path, err)
	}
	return nil
}

// publish makes the node what it is to be: the kernel has made it where devtmpfs is mounted, elsewhere it is made here.
func (n node) publish(a unixsocket.Access) error {
	dev, err := n.number()
	if err != nil {
		return fmt.Errorf("the kernel did not take the name of %s: %w", n.path, err)
	}
	if !n.there() {
		_ = unix.Unlink(n.path)
		if err := makeNode(n.path, dev, uint32(a.Mode.Perm())); err != nil {
			return err
		}
	}
	return n.permit(a)
}

// there tells that the node is the device's.
func (n node) there() bool {
	dev, err := n.number()
	var st unix.Stat_t
	return err == nil && unix.Lstat(n.path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == dev
}

// permit sets group and mode. A group that this machine does not have must not keep root's QEMU from working.
func (n node) permit(a unixsocket.Access) error {
	if a.Group != "" {
		gid, err := unixsocket.GroupID(a.Group)
		if err == nil {
			err = unix.Lchown(n.path, -1, gid)
		}
		if err != nil {
			return fmt.Errorf("giving %s to group %q (option --cuse-group): %w", n.path, a.Group, err)
		}
	}
	if err := unix.Chmod(n.path, uint32(a.Mode.Perm())); err != nil {
		return fmt.Errorf("mode of %s (option --cuse-mode): %w", n.path, err)
	}
	return nil
}

// number is the device number that the kernel chose.
func (n node) number() (uint64, error) {
	data, err := os.ReadFile(filepath.Join(n.class, filepath.Base(n.path), "dev"))
	if err != nil {
		return 0, err
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(data)), ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("device number %q: %w", data, err)
	}
	return unix.Mkdev(uint32(a), uint32(b)), nil
}

// keepPermitted sets group and mode again where udev takes them back: it gives nodes that no rule names to root alone, a moment after they
// appear. What anybody else sets stays. done ends it.
func (n node) keepPermitted(a unixsocket.Access, done <-chan struct{}, log *slog.Logger) {
	for wait := 50 * time.Millisecond; wait < 10*time.Second; wait *= 2 {
		select {
		case <-done:
			return
		case <-time.After(wait):
		}
		var st unix.Stat_t
		if unix.Lstat(n.path, &st) != nil || st.Mode&0o777 != 0o600 || st.Uid != 0 || st.Gid != 0 {
			continue
		}
		if err := n.permit(a); err != nil {
			log.Warn("access to the device", "error", err)
			return
		}
	}
}

// remove takes away a node that the kernel did not: one that was made here.
func (n node) remove(dev uint64) {
	var st unix.Stat_t
	if unix.Lstat(n.path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == dev {
		_ = unix.Unlink(n.path)
	}
}

// makeNode makes a character device's file, where no devtmpfs does.
func makeNode(path string, dev uint64, mode uint32) error {
	if err := unix.Mknod(path, unix.S_IFCHR|mode, int(dev)); err != nil {
		return fmt.Errorf("making the device node %s: %w", path, err)
	}
	return nil
}
