package vhost

import (
	"fmt"
	"sync"

	"vhostkit/switchd/foreign"
	"vhostkit/switchd/virtio"
)

// maxRetired is how many replaced call descriptors may wait for the workers. A front-end that is quicker waits itself.
const maxRetired = 64

// retired closes call descriptors that were replaced in running rings, once no worker can use them any more. The front-end does not wait for
// that.
type retired struct {
	port  Port
	files *foreign.Files

	mu      sync.Mutex
	idle    sync.Cond // on mu: the goroutine has ended
	pending []retiredCall
	running bool // the goroutine is there
}

// retiredCall is a descriptor and the queue that it was replaced in.
type retiredCall struct {
	fd    int
	queue *virtio.Queue
}

func newRetired(port Port, files *foreign.Files) *retired {
	r := &retired{port: port, files: files}
	r.idle.L = &r.mu
	return r
}

// add hands a descriptor over; -1: only the driver has to be woken through the new one.
func (r *retired) add(fd int, q *virtio.Queue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.pending) >= maxRetired {
		r.idle.Wait()
	}
	r.pending = append(r.pending, retiredCall{fd, q})
	if !r.running {
		r.running = true
		go r.work()
	}
}

// work closes what is pending, one batch after the other, and ends when there is nothing.
func (r *retired) work() {
	for {
		r.mu.Lock()
		batch := r.pending
		r.pending = nil
		r.running = len(batch) > 0
		r.idle.Broadcast()
		r.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		done := map[*virtio.Queue]bool{}
		for _, c := range batch {
			if !done[c.queue] {
				done[c.queue] = true
				r.port.Quiesce(c.queue)
			}
			r.files.Close(c.fd)
		}
	}
}

// wait returns when everything is closed.
func (r *retired) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.running {
		r.idle.Wait()
	}
}

// SetVringCall sets how the driver is woken; -1: it polls. A guest's driver makes QEMU pass another descriptor whenever it masks or unmasks
// the queue's interrupt, so a running ring goes on: only its descriptor changes.
func (d *Device) SetVringCall(index uint32, fd int) error {
	r, err := d.at(index)
	socket := false
	if err == nil && fd >= 0 {
		if socket, err = checkCall(fd); err != nil {
			err = fmt.Errorf("SET_VRING_CALL: vring %d: %w", index, err)
		}
	}
	if err != nil {
		d.options.Files.Close(fd)
		return err
	}
	before := r.call
	r.call, r.callSocket = fd, socket
	if r.queue == nil {
		d.options.Files.Close(before)
		return nil
	}
	r.queue.SetCall(fd, socket)
	d.retired.add(before, r.queue)
	return nil
}
