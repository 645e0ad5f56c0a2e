package cuse

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/virtio"
)

// handler carries out an ioctl whose argument is complete. answer is what its caller's memory gets.
type handler func(s *session, data []byte) (answer []byte, err error)

// requests are the ioctls of a network device.
var requests = map[ioctl]request{
	VHOST_GET_FEATURES:   {"VHOST_GET_FEATURES", 0, 8, func(s *session, _ []byte) ([]byte, error) { return u64(s.offered()), nil }},
	VHOST_SET_FEATURES:   {"VHOST_SET_FEATURES", 8, 0, (*session).setFeatures},
	VHOST_SET_OWNER:      {"VHOST_SET_OWNER", 0, 0, nil},
	VHOST_RESET_OWNER:    {"VHOST_RESET_OWNER", 0, 0, func(s *session, _ []byte) ([]byte, error) { s.disown(false); return nil, nil }},
	VHOST_SET_MEM_TABLE:  {"VHOST_SET_MEM_TABLE", tableSize, 0, (*session).setMemTable},
	VHOST_SET_LOG_BASE:   {"VHOST_SET_LOG_BASE", 8, 0, noLog},
	VHOST_SET_LOG_FD:     {"VHOST_SET_LOG_FD", 4, 0, noLog},
	VHOST_SET_VRING_NUM:  {"VHOST_SET_VRING_NUM", stateSize, 0, (*session).setVringNum},
	VHOST_SET_VRING_ADDR: {"VHOST_SET_VRING_ADDR", addrSize, 0, (*session).setVringAddr},
	VHOST_SET_VRING_BASE: {"VHOST_SET_VRING_BASE", stateSize, 0, (*session).setVringBase},
	VHOST_GET_VRING_BASE: {"VHOST_GET_VRING_BASE", stateSize, stateSize, (*session).vringBase},
	VHOST_SET_VRING_KICK: {"VHOST_SET_VRING_KICK", stateSize, 0, (*session).setVringKick},
	VHOST_SET_VRING_CALL: {"VHOST_SET_VRING_CALL", stateSize, 0, (*session).setVringCall},
	VHOST_SET_VRING_ERR:  {"VHOST_SET_VRING_ERR", stateSize, 0, (*session).setVringErr},

	VHOST_SET_VRING_ENDIAN:           {"VHOST_SET_VRING_ENDIAN", stateSize, 0, setEndian},
	VHOST_GET_VRING_ENDIAN:           {"VHOST_GET_VRING_ENDIAN", stateSize, stateSize, zeroState},
	VHOST_SET_VRING_BUSYLOOP_TIMEOUT: {"VHOST_SET_VRING_BUSYLOOP_TIMEOUT", stateSize, 0, ignoreState},
	VHOST_GET_VRING_BUSYLOOP_TIMEOUT: {"VHOST_GET_VRING_BUSYLOOP_TIMEOUT", stateSize, stateSize, zeroState},
	VHOST_SET_BACKEND_FEATURES:       {"VHOST_SET_BACKEND_FEATURES", 8, 0, setBackendFeatures},
	VHOST_GET_BACKEND_FEATURES:       {"VHOST_GET_BACKEND_FEATURES", 0, 8, func(*session, []byte) ([]byte, error) { return u64(0), nil }},
	VHOST_NET_SET_BACKEND:            {"VHOST_NET_SET_BACKEND", stateSize, 0, (*session).setBackend},
}

func u64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

func state(index, value uint32) []byte {
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, index), value)
}

// queues is how many rings a device has: the kernel's vhost-net has one queue pair, QEMU opens one descriptor per pair.
const queues = 2

func checkIndex(index uint32) error {
	if index >= queues {
		return fmt.Errorf("vring %d, but the device has %d: %w", index, queues, unix.ENOBUFS)
	}
	return nil
}

// offered is what vhost-user offers, too, but for the bits that mean something else here.
func (s *session) offered() uint64 {
	return uint64(s.options.Features())&^(1<<virtio.VHOST_USER_F_PROTOCOL) | 1<<VHOST_NET_F_VIRTIO_NET_HDR
}

func (s *session) setFeatures(data []byte) ([]byte, error) {
	f := binary.NativeEndian.Uint64(data)
	if extra := f &^ s.offered(); extra != 0 {
		return nil, fmt.Errorf("%v were not offered: %w", virtio.Features(extra).Names(), unix.EOPNOTSUPP)
	}
	return nil, s.device.SetFeatures(virtio.Features(f &^ (1 << VHOST_NET_F_VIRTIO_NET_HDR)))
}

func (s *session) setMemTable(data []byte) ([]byte, error) {
	table, errno := decodeTable(data)
	if errno != 0 {
		return nil, fmt.Errorf("malformed memory table of %d bytes: %w", len(data), errno)
	}
	memory, err := s.owner.findMemory(table, s.log)
	if err != nil {
		return nil, err
	}
	defer memory.close()
	return nil, s.device.SetMemTable(memory.specs)
}

// noLog: VHOST_F_LOG_ALL is not offered, so that QEMU refuses to migrate such a guest and says why.
func noLog(*session, []byte) ([]byte, error) {
	return nil, fmt.Errorf("VHOST_F_LOG_ALL was not offered: %w", unix.EOPNOTSUPP)
}

func (s *session) setVringNum(data []byte) ([]byte, error) {
	index, n := vringState(data)
	if err := s.idle(index); err != nil {
		return nil, err
	}
	return nil, s.device.SetVringNum(index, n)
}

func (s *session) setVringBase(data []byte) ([]byte, error) {
	index, n := vringState(data)
	if err := s.idle(index); err != nil {
		return nil, err
	}
	return nil, s.device.SetVringBase(index, n)
}

// idle makes sure that a ring has no backend: size and position of a running ring do not change.
func (s *session) idle(index uint32) error {
	if err := checkIndex(index); err != nil {
		return err
	}
	if s.backend[index] {
		return fmt.Errorf("vring %d is running: %w", index, unix.EBUSY)
	}
	return nil
}

func (s *session) vringBase(data []byte) ([]byte, error) {
	index, _ := vringState(data)
	if err := checkIndex(index); err != nil {
		return nil, err
	}
	base, err := s.device.VringBase(index)
	return state(index, base), err
}

func (s *session) setVringAddr(data []byte) ([]byte, error) {
	index, flags, a := vringAddr(data)
	if err := checkIndex(index); err != nil {
		return nil, err
	}
	if flags != 0 {
		return nil, fmt.Errorf("flags %#x (VHOST_F_LOG_ALL was not offered): %w", flags, unix.EOPNOTSUPP)
	}
	return nil, s.device.SetVringAddr(index, a)
}

// eventFD gets the eventfd of a vhost_vring_file; -1 stays -1: none.
func (s *session) eventFD(data []byte) (index uint32, fd int, err error) {
	index, value := vringState(data)
	if err := checkIndex(index); err != nil {
		return index, -1, err
	}
	if int32(value) == -1 {
		return index, -1, nil
	}
	fd, err = s.owner.fetch(int32(value), eventFDLink)
	return index, fd, err
}

func (s *session) setVringKick(data []byte) ([]byte, error) {
	index, fd, err := s.eventFD(data)
	if err != nil {
		return nil, err
	}
	return nil, s.device.SetVringKick(index, fd)
}

// setVringCall keeps a copy: QEMU does not tell it again to a device that has to begin anew.
func (s *session) setVringCall(data []byte) ([]byte, error) {
	index, fd, err := s.eventFD(data)
	if err != nil {
		return nil, err
	}
	spare := -1
	if fd >= 0 {
		if spare, err = s.copy(fd); err != nil {
			s.files.Close(fd)
			return nil, err
		}
	}
	s.files.Close(s.calls[index])
	s.calls[index] = spare
	return nil, s.device.SetVringCall(index, fd)
}

// copy makes another descriptor, which is counted.
func (s *session) copy(fd int) (int, error) {
	if err := s.files.Account().Take(budget.Descriptors, 1); err != nil {
		return -1, err
	}
	other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		s.files.Account().Give(budget.Descriptors, 1)
		return -1, fmt.Errorf("another descriptor of an eventfd: %w", err)
	}
	return other, nil
}

func (s *session) setVringErr(data []byte) ([]byte, error) {
	index, fd, err := s.eventFD(data)
	if err != nil {
		return nil, err
	}
	return nil, s.device.SetVringErr(index, fd)
}

// setBackend starts a ring, or stops it where the descriptor is -1. The tap stands for the way to the switch and is not used.
func (s *session) setBackend(data []byte) ([]byte, error) {
	index, value := vringState(data)
	if err := checkIndex(index); err != nil {
		return nil, err
	}
	run := int32(value) != -1
	if run {
		if _, err := os.Readlink(s.owner.path("fd/" + strconv.FormatUint(uint64(value), 10))); err != nil {
			return nil, fmt.Errorf("process %d has no descriptor %d: %w", s.owner.pid, int32(value), unix.EBADF)
		}
	}
	s.backend[index] = run
	return nil, s.device.SetVringEnable(index, run)
}

// setEndian: the switch knows rings in the byte order of this machine's guests, which is 0 (little) wherever it runs.
func setEndian(_ *session, data []byte) ([]byte, error) {
	index, order := vringState(data)
	if err := checkIndex(index); err != nil {
		return nil, err
	}
	if order != 0 {
		return nil, fmt.Errorf("big-endian rings: %w", unix.EINVAL)
	}
	return nil, nil
}

func zeroState(_ *session, data []byte) ([]byte, error) {
	index, _ := vringState(data)
	return state(index, 0), checkIndex(index)
}

// ignoreState: how long a worker polls is the switch's business.
func ignoreState(_ *session, data []byte) ([]byte, error) {
	index, _ := vringState(data)
	return nil, checkIndex(index)
}

func setBackendFeatures(_ *session, data []byte) ([]byte, error) {
	if f := binary.NativeEndian.Uint64(data); f != 0 {
		return nil, fmt.Errorf("backend features %#x were not offered: %w", f, unix.EOPNOTSUPP)
	}
	return nil, nil
}
