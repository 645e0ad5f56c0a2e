package cuse

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost"
)

// errGone says that the process that a device belongs to has ended.
var errGone = fmt.Errorf("the process has ended: %w", unix.ESRCH)

// process is the owner of a device. The pidfd stands for it for as long as it is held, whoever gets its number later.
type process struct {
	pid   int
	pidfd int
	peer  vhost.Peer
	// memory says what may be mapped; its Files count and close what is taken from the process.
	memory guestmem.Mapper
}

// processOf gives the number of the process that a thread belongs to: FUSE tells threads. While the thread waits for an answer it cannot
// end, so the number stays right until then.
func processOf(tid uint32) (int, error) {
	if tid == 0 {
		return 0, fmt.Errorf("the caller is in a PID namespace that switchd cannot see: run switchd outside of containers: %w", unix.EPERM)
	}
	value, err := statusField(int(tid), "Tgid:")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(value)
}

// statusField reads a line of /proc/PID/status.
func statusField(pid int, name string) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", fmt.Errorf("looking for the calling process: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("/proc/%d/status has no %s: %w", pid, name, unix.ESRCH)
}

// openProcess takes hold of the process that the header's thread belongs to. The thread must be waiting for an answer.
func openProcess(h inHeader) (*process, error) {
	pid, err := processOf(h.TID)
	if err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("pidfd_open: %w: vhost-cuse needs Linux 5.6 or later", err)
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd_open of process %d: %w", pid, err)
	}
	p := &process{pid: pid, pidfd: pidfd, peer: vhost.Peer{PID: pid, UID: int(h.UID), GID: int(h.GID)}}
	if comm, err := os.ReadFile(p.path("comm")); err == nil {
		p.peer.Comm = strings.TrimSpace(string(comm))
	}
	return p, nil
}

func (p *process) close() { unix.Close(p.pidfd) }

func (p *process) path(name string) string { return fmt.Sprintf("/proc/%d/%s", p.pid, name) }

// alive makes sure that what was read below /proc/PID was the process's: its number is not given to another before it has ended.
func (p *process) alive() error {
	err := unix.PidfdSendSignal(p.pidfd, 0, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return errGone
	}
	return nil
}

// fetch gets a copy of a descriptor of the process. kind is what its link in /proc must say: a descriptor of another kind is not even
// touched, because files of file systems that the caller serves itself could hold us up when they are closed.
func (p *process) fetch(fd int32, kind string) (int, error) {
	if fd < 0 {
		return -1, fmt.Errorf("descriptor %d: %w", fd, unix.EBADF)
	}
	link, err := os.Readlink(p.path("fd/" + strconv.Itoa(int(fd))))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return -1, fmt.Errorf("process %d has no descriptor %d: %w", p.pid, fd, unix.EBADF)
	case err != nil:
		return -1, p.explain(fmt.Errorf("looking at descriptor %d of process %d: %w", fd, p.pid, err))
	case link != kind:
		return -1, fmt.Errorf("descriptor %d of process %d is %q, want %q: %w", fd, p.pid, link, kind, unix.EINVAL)
	}
	return p.take(int(fd))
}

// take gets a copy of a descriptor, which is counted from then on.
func (p *process) take(fd int) (int, error) {
	if err := p.memory.Files.Account().Take(budget.Descriptors, 1); err != nil {
		return -1, err
	}
	own, err := unix.PidfdGetfd(p.pidfd, fd, 0)
	if err != nil {
		p.memory.Files.Account().Give(budget.Descriptors, 1)
		return -1, p.explain(fmt.Errorf("pidfd_getfd of descriptor %d of process %d: %w", fd, p.pid, err))
	}
	return own, nil
}

// explain says what to do about missing rights.
func (p *process) explain(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: to serve a QEMU of user %d over vhost-cuse switchd needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (and "+
			"kernel.yama.ptrace_scope below 3)", err, p.peer.UID)
	}
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: vhost-cuse needs Linux 5.6 or later", err)
	}
	return err
}

// eventFDLink is what the link of an eventfd says.
const eventFDLink = "anon_inode:[eventfd]"
