package cuse

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"vhostkit/internal/host"
)

// Channel carries messages between the kernel and a device: each Read is one request, each Write one answer. Writes may be concurrent, also
// with a Read; Close ends a Read.
type Channel io.ReadWriteCloser

// controlDevice is where CUSE devices are made. Its numbers are fixed (linux/miscdevice.h: CUSE_MINOR).
const (
	controlDevice = "/dev/cuse"
	controlMajor  = 10
	controlMinor  = 203
)

// errNoCUSE says what to install.
var errNoCUSE = errors.New("the kernel has no CUSE (CONFIG_CUSE, module cuse), which vhost-cuse needs. Install the kernel's modules that " +
	"have it (Debian: linux-image-amd64 rather than a cloud kernel; Ubuntu: linux-modules-extra-$(uname -r); Fedora: kernel-modules) and run " +
	"modprobe cuse, or use --backend vhost-user")

// openChannel opens /dev/cuse. Where it is not there the module is loaded.
func openChannel() (Channel, error) {
	f, err := openControl()
	if missing(err) {
		reason := host.LoadModule("cuse")
		if f, err = openControl(); missing(err) && present() {
			if err = makeNode(controlDevice, unix.Mkdev(controlMajor, controlMinor), 0o600); err == nil {
				f, err = openControl()
			}
		}
		if missing(err) {
			return nil, errors.Join(errNoCUSE, reason)
		}
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("%w: vhost-cuse makes devices, so switchd has to be root, or have read and write access to %s", err, controlDevice)
	}
	if err != nil {
		return nil, fmt.Errorf("opening CUSE: %w", err)
	}
	return f, nil
}

func openControl() (*os.File, error) { return os.OpenFile(controlDevice, os.O_RDWR, 0) }

// present tells that the kernel has the device, if perhaps no node for it: in the kernel itself, or as a module that is loaded.
func present() bool {
	_, err := os.Stat("/sys/class/misc/cuse")
	return err == nil
}

func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}
