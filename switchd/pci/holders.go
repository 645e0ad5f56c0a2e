package pci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// holders names the processes that have the card open by VFIO ("switchd (pid 12)"). The kernel lets nobody take the card from them: whoever
// tries waits until they end.
func (h Host) holders(address string) (list []string) {
	group, err := h.group(address)
	if err != nil {
		return nil
	}
	nodes := []string{filepath.Join("/dev/vfio", strconv.Itoa(group))}
	own, _ := filepath.Glob(filepath.Join(h.device(address), "vfio-dev", "vfio*"))
	for _, name := range own {
		nodes = append(nodes, filepath.Join("/dev/vfio/devices", filepath.Base(name)))
	}
	fds, _ := filepath.Glob(filepath.Join(h.Proc, "[0-9]*/fd/*"))
	seen := map[string]bool{}
	for _, fd := range fds {
		pid := filepath.Base(filepath.Dir(filepath.Dir(fd)))
		// Seen from another root the path may have more in front.
		target, err := os.Readlink(fd)
		if err != nil || seen[pid] || !slices.ContainsFunc(nodes, func(node string) bool { return strings.HasSuffix(target, node) }) {
			continue
		}
		seen[pid] = true
		list = append(list, fmt.Sprintf("%s (pid %s)", h.text(h.Proc, pid, "comm"), pid))
	}
	return list
}

// free refuses a card that a process has open.
func (h Host) free(address string) error {
	if list := h.holders(address); len(list) > 0 {
		return fmt.Errorf("%w by %s: end it first", ErrInUse, strings.Join(list, ", "))
	}
	return nil
}
