package vfiouser

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// vectors are the eventfds behind a device's MSI-X vectors.
type vectors struct {
	mu  sync.Mutex
	fds []int // -1: none
}

func newVectors(n int) *vectors {
	v := &vectors{fds: make([]int, n)}
	for i := range v.fds {
		v.fds[i] = -1
	}
	return v
}

// trigger signals a vector. The counter of an eventfd that nobody reads is full at some time; that is no reason to wait.
func (v *vectors) trigger(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n < 0 || n >= len(v.fds) || v.fds[n] < 0 {
		return
	}
	_, _ = unix.Write(v.fds[n], []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// set carries SET_IRQS out and keeps the descriptors that it takes over; what is left is the caller's.
func (v *vectors) set(m setIRQs, fds []int) (rest []int, err error) {
	if m.index != VFIO_PCI_MSIX_IRQ_INDEX {
		if m.count == 0 || m.flags&VFIO_IRQ_SET_DATA_EVENTFD == 0 || len(fds) == 0 {
			return fds, nil // switching off what is not there
		}
		return fds, fmt.Errorf("SET_IRQS for interrupts of kind %d, of which this device has none: %w", m.index, unix.EINVAL)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if m.start > uint32(len(v.fds)) || m.count > uint32(len(v.fds))-m.start {
		return fds, fmt.Errorf("SET_IRQS for vectors %d to %d of %d: %w", m.start, uint64(m.start)+uint64(m.count), len(v.fds), unix.EINVAL)
	}
	if m.flags&VFIO_IRQ_SET_ACTION_TRIGGER == 0 {
		return fds, nil // masking is the client's own business with MSI-X
	}
	switch {
	case m.count == 0: // all off
		for i := range v.fds {
			v.put(i, -1)
		}
	case m.flags&VFIO_IRQ_SET_DATA_EVENTFD != 0:
		for i := range m.count {
			fd := -1
			if len(fds) > 0 {
				fd, fds = fds[0], fds[1:]
			}
			if fd >= 0 {
				_ = unix.SetNonblock(fd, true)
			}
			v.put(int(m.start+i), fd)
		}
	}
	return fds, nil
}

func (v *vectors) put(i, fd int) {
	if v.fds[i] >= 0 {
		_ = unix.Close(v.fds[i])
	}
	v.fds[i] = fd
}

func (v *vectors) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.fds {
		v.put(i, -1)
	}
}
