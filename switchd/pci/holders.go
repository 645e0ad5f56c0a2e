package pci

import (
	"fmt"
	"os"
	"path/filepath"
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
	want := filepath.Join("/dev/vfio", strconv.Itoa(group))
	fds, _ := filepath.Glob(filepath.Join(h.Proc, "[0-9]*/fd/*"))
	seen := map[string]bool{}
	for _, fd := range fds {
		pid := filepath.Base(filepath.Dir(filepath.Dir(fd)))
		// Seen from another root the path may have more in front.
		if target, err := os.Readlink(fd); err != nil || !strings.HasSuffix(target, want) || seen[pid] {
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
