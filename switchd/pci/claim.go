package pci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// claim is what makes a device without an IOMMU this process's own, and takes it off the bus when the process ends, however it ends.
//
// Relied upon: the kernel's uio_pci_generic clears the bus master bit (pci_clear_master) when a descriptor of /dev/uioN is given back, which the
// kernel does for a process that is killed, too (in Linux 5.4 and later; 4.13 does not yet). It does so for each open of /dev/uioN, whoever else
// has one: to open it and close it again takes the card off the bus under its owner. So the lock is on the device's configuration space, and
// /dev/uioN is opened only when nobody has it.
type claim struct {
	config *os.File // locked
	node   *os.File // /dev/uioN
}

func (h Host) claim(address string) (c *claim, err error) {
	c = &claim{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	node, err := h.uioNode(address)
	if err != nil {
		return c, err
	}
	name := filepath.Join(h.device(address), "config")
	if c.config, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		return c, fmt.Errorf("open %s: %w: access without VFIO needs root", name, err)
	}
	err = unix.Flock(int(c.config.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return c, fmt.Errorf("lock %s: %w", name, err)
	}
	if taken := h.free(address); taken != nil {
		return c, fmt.Errorf("open %s: %w", address, taken)
	}
	if err != nil { // it has just begun or is about to end, or is out of sight
		return c, fmt.Errorf("open %s: %w by another process, which has locked %s: fuser %[3]s names it", address, ErrInUse, name)
	}
	if c.node, err = os.OpenFile(node, os.O_RDWR, 0); err != nil {
		return c, fmt.Errorf("open %s, which takes %s off the bus when the switch ends: %w", node, address, err)
	}
	return c, nil
}

// uioNode is the device's /dev/uioN.
func (h Host) uioNode(address string) (string, error) {
	found, _ := filepath.Glob(filepath.Join(h.device(address), "uio", "uio*"))
	if len(found) != 1 {
		return "", fmt.Errorf("open %s: %s has made %d device nodes for it, want one below %s: bind it again (vhostctl nic unbind, nic bind --driver %[2]s)",
			address, userIO, len(found), filepath.Join(h.device(address), "uio"))
	}
	dev := h.Dev
	if dev == "" {
		dev = "/dev"
	}
	return filepath.Join(dev, filepath.Base(found[0])), nil
}

// leave gives /dev/uioN back: the kernel clears the bus master bit.
func (c *claim) leave() (err error) {
	if c.node != nil {
		err = c.node.Close()
		c.node = nil
	}
	return err
}

func (c *claim) close() error {
	err := c.leave()
	if c.config != nil {
		err = errors.Join(err, c.config.Close())
		c.config = nil
	}
	return err
}

// nodes are what stands for a device in /dev, with VFIO and without.
func (h Host) nodes(address string) (list []string) {
	if group, err := h.group(address); err == nil {
		list = append(list, fmt.Sprintf("/dev/vfio/%d", group))
	}
	for _, where := range [][2]string{{"vfio-dev/vfio*", "/dev/vfio/devices"}, {"uio/uio*", "/dev"}} {
		found, _ := filepath.Glob(filepath.Join(h.device(address), where[0]))
		for _, name := range found {
			list = append(list, filepath.Join(where[1], filepath.Base(name)))
		}
	}
	return list
}

// holders names the processes that have the card open ("switchd (pid 12)"). With VFIO the kernel lets nobody take the card from them: whoever
// tries waits until they end. Without, it lets anybody, and two then drive one card.
func (h Host) holders(address string) (list []string) {
	nodes := h.nodes(address)
	fds, _ := filepath.Glob(filepath.Join(h.Proc, "[0-9]*/fd/*"))
	seen := map[string]bool{}
	for _, fd := range fds {
		pid := filepath.Base(filepath.Dir(filepath.Dir(fd)))
		if seen[pid] || !isNode(fd, nodes) {
			continue
		}
		seen[pid] = true
		list = append(list, fmt.Sprintf("%s (pid %s)", h.text(h.Proc, pid, "comm"), pid))
	}
	return list
}

// isNode: seen from another root the path may have more in front.
func isNode(fd string, nodes []string) bool {
	target, err := os.Readlink(fd)
	if err != nil {
		return false
	}
	for _, node := range nodes {
		if strings.HasSuffix(target, node) {
			return true
		}
	}
	return false
}

// free refuses a card that a process has open.
func (h Host) free(address string) error {
	if list := h.holders(address); len(list) > 0 {
		return fmt.Errorf("%w by %s: end it first", ErrInUse, strings.Join(list, ", "))
	}
	return nil
}
