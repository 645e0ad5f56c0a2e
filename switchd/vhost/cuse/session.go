package cuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/foreign"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost"
)

// maxPending bounds the requests that wait for one device. QEMU has one at a time.
const maxPending = 64

// job is an ioctl for a session.
type job struct {
	header inHeader
	ioctl  ioctlIn
}

// session is one open of the device node: a vhost device from VHOST_SET_OWNER on. jobs is written by the server; everything else belongs to
// the goroutine of run.
type session struct {
	config  Config
	options vhost.Options
	files   *foreign.Files // count and close what the caller brings
	answer  func([]byte)
	jobs    chan job // closed when the last descriptor of the open file is

	owner    *process      // nil: none yet
	device   *vhost.Device // nil: no owner, or stopped by a fault of its own
	port     vhost.Port    // the device's
	failed   chan error    // from the data plane, about the present device
	backend  [queues]bool  // rings that are to run
	calls    [queues]int   // copies of the eventfds that wake the guest; -1: none
	refusals int
	log      *slog.Logger
}

// newSession makes a session that counts to an account, which ends with it.
func newSession(c Config, account *budget.Account, answer func([]byte)) *session {
	options := c.Options
	options.MaxQueuePairs, options.Files = queues/2, foreign.New(account)
	return &session{
		config: c, options: options, files: options.Files, answer: answer, jobs: make(chan job, maxPending), calls: [queues]int{-1, -1}, log: c.Log,
	}
}

// run handles ioctls one after the other until the file is released.
func (s *session) run() {
	defer s.disown(true)
	for {
		select {
		case err := <-s.failed:
			s.drop(err)
		case j, ok := <-s.jobs:
			if !ok {
				return
			}
			s.answer(s.handle(j))
		}
	}
}

// handle answers one ioctl, or asks for the memory of its caller that it needs.
func (s *session) handle(j job) []byte {
	cmd, unique := ioctl(j.ioctl.Cmd), j.header.Unique
	if j.ioctl.Flags&(FUSE_IOCTL_COMPAT|FUSE_IOCTL_32BIT) != 0 {
		s.refused(cmd, errors.New("a 32-bit QEMU on a 64-bit kernel is not served over vhost-cuse: use a 64-bit QEMU, or vhost-user"))
		return answerError(unique, unix.EOPNOTSUPP)
	}
	r, known := requests[cmd]
	if !known {
		if cmd != VHOST_GET_FEATURES_ARRAY && cmd != VHOST_SET_FEATURES_ARRAY {
			s.refused(cmd, unix.ENOTTY)
		}
		return answerError(unique, unix.ENOTTY)
	}
	in, out, ready, errno := r.wanted(cmd, j.ioctl)
	if errno != 0 {
		s.refused(cmd, errno)
		return answerError(unique, errno)
	}
	if !ready {
		return answerRetry(unique, in, out)
	}
	data, err := s.carryOut(cmd, r, j)
	if err != nil {
		s.refused(cmd, err)
		return answerError(unique, errnoOf(err))
	}
	return answerIoctl(unique, data)
}

// carryOut checks who calls and that there is a device, and lets the handler do the rest.
func (s *session) carryOut(cmd ioctl, r request, j job) ([]byte, error) {
	s.log.Debug("ioctl", "request", r.name, "bytes", len(j.ioctl.Data))
	switch cmd {
	case VHOST_GET_FEATURES, VHOST_GET_BACKEND_FEATURES, VHOST_SET_BACKEND_FEATURES:
		return r.handle(s, j.ioctl.Data)
	case VHOST_SET_OWNER:
		return nil, s.own(j.header)
	}
	if err := s.checkOwner(j.header); err != nil {
		return nil, err
	}
	if s.device == nil && cmd != VHOST_RESET_OWNER {
		if stop, answer, err := s.withoutDevice(cmd, j.ioctl.Data); stop {
			return answer, err
		}
		if err := s.connect(); err != nil {
			return nil, err
		}
	}
	answer, err := r.handle(s, j.ioctl.Data)
	if err == nil && s.device != nil {
		if err = s.device.Refresh(); err != nil {
			s.drop(err)
		}
	}
	return answer, err
}

// withoutDevice handles what a QEMU says to stop a device that has been stopped already by its own fault. QEMU takes for granted that
// stopping works: an error would end it.
func (s *session) withoutDevice(cmd ioctl, data []byte) (stop bool, answer []byte, err error) {
	switch cmd {
	case VHOST_NET_SET_BACKEND:
		if index, value := vringState(data); int32(value) == -1 && index < queues {
			s.backend[index] = false
			return true, nil, nil
		}
	case VHOST_GET_VRING_BASE:
		return true, nil, fmt.Errorf("the device was stopped: %w", unix.EIO)
	}
	return false, nil, nil
}

// own makes the caller the owner, and connects its device to the switch.
func (s *session) own(h inHeader) error {
	if s.owner != nil {
		return fmt.Errorf("the device has an owner: %w", unix.EBUSY)
	}
	if err := s.files.Account().Take(budget.Descriptors, 1); err != nil {
		return err
	}
	p, err := openProcess(h)
	if err != nil {
		s.files.Account().Give(budget.Descriptors, 1)
		return err
	}
	p.memory = guestmem.Mapper{Files: s.files, AnyFile: s.options.AnyFile}
	s.owner = p
	if err := s.connect(); err != nil {
		s.disown(false)
		return err
	}
	return nil
}

// checkOwner: eventfds and addresses mean something in the owner alone.
func (s *session) checkOwner(h inHeader) error {
	if s.owner == nil {
		return fmt.Errorf("the device has no owner yet (VHOST_SET_OWNER): %w", unix.EPERM)
	}
	pid, err := processOf(h.TID)
	if err != nil {
		return err
	}
	if pid != s.owner.pid {
		return fmt.Errorf("process %d is not the owner, which is %d: %w", pid, s.owner.pid, unix.EPERM)
	}
	return s.owner.alive()
}

// connect makes a device that is as QEMU believes it to be when it starts one.
func (s *session) connect() error {
	if err := s.files.Account().Take(budget.Ports, 1); err != nil {
		return err
	}
	failed := make(chan error, 1)
	port, err := s.config.Switch.Connect(vhost.Connection{
		Socket: s.config.path(), Transport: "vhost-cuse", Peer: s.owner.peer,
		Fail: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
	if err != nil {
		s.files.Account().Give(budget.Ports, 1)
		return fmt.Errorf("the switch has no port for the device: %w", err)
	}
	s.port, s.failed = port, failed
	s.log = s.config.Log.With("device", s.config.path(), "pid", s.owner.peer.PID, "uid", s.owner.peer.UID, "comm", s.owner.peer.Comm, "port",
		port.ID())
	s.log.Info("device connected")
	s.device = vhost.NewDevice(s.options, port, nil, s.log)
	for i := range uint32(queues) {
		s.backend[i] = false
		if err := s.device.SetVringEnable(i, false); err != nil {
			return err
		}
		if s.calls[i] < 0 {
			continue
		}
		fd, err := s.copy(s.calls[i])
		if err != nil {
			return err
		}
		if err := s.device.SetVringCall(i, fd); err != nil {
			return err
		}
	}
	return nil
}

// drop ends a device that broke the rules. Its owner gets another when it starts anew, as after a reset of the guest.
func (s *session) drop(err error) {
	if s.device == nil {
		return
	}
	s.log.Error("device stopped; the other ports are not affected", "error", err)
	s.port.Stopped(err)
	s.closeDevice()
}

func (s *session) closeDevice() {
	if s.device != nil {
		s.device.Close(false)
		s.files.Account().Give(budget.Ports, 1)
	}
	s.device, s.failed = nil, nil
}

// disown gives back everything that the owner has brought.
func (s *session) disown(released bool) {
	if s.device != nil {
		s.log.Info("device disconnected", "released", released)
	}
	s.closeDevice()
	for i := range s.calls {
		s.files.Close(s.calls[i])
		s.calls[i], s.backend[i] = -1, false
	}
	if s.owner != nil {
		s.owner.close()
		s.files.Account().Give(budget.Descriptors, 1)
		s.owner = nil
	}
}

// maxRefusals bounds how much a caller can make a session log about requests that it refuses.
const maxRefusals = 16

func (s *session) refused(cmd ioctl, err error) {
	level := slog.LevelWarn
	if s.refusals++; s.refusals > maxRefusals {
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, "request refused", "request", cmd.String(), "error", err)
	if s.refusals == maxRefusals {
		s.log.Warn("further requests of this device are refused without a line in the log")
	}
}

// errnoOf is what the caller is told.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	var exceeded *budget.ExceededError
	switch {
	case errors.As(err, &exceeded):
		return unix.ENOMEM
	case errors.As(err, &errno) && errno > 0 && errno < 512:
		return errno
	case errors.Is(err, guestmem.ErrRegion):
		return unix.EFAULT
	}
	return unix.EINVAL
}
