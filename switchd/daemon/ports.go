package daemon

import (
	"context"
	"fmt"
	"time"

	"vhostkit/switchd/control"
)

const (
	// neverUsed is how long a port that a QEMU process asked for may wait for its first device, and unused for the next after one went.
	// A guest that starts again asks again, and gets the port under the same name.
	neverUsed = 10 * time.Minute
	unused    = 24 * time.Hour
	// A port that is as young as that is not given up for another one.
	youngest = time.Minute
	// closeTimeout is how long somebody waits for a socket's devices to end. What a foreigner holds up in the kernel may take for ever.
	closeTimeout = 4 * time.Second
)

// namedState is a named port and what is not remembered of it.
type namedState struct {
	namedPort
	ready chan struct{} // closed when the socket is there, or could not be made
	since time.Time     // of this run
}

// inUse tells whether a device is connected. The caller holds mu.
func (d *Daemon) inUse(name string) bool { return d.byName[name] != nil }

// expired tells that nobody has used the port for so long that it is given up. The caller holds mu.
func (d *Daemon) expired(n *namedState, now time.Time, first, next time.Duration) bool {
	if n.Asked == nil || d.inUse(n.Name) {
		return false
	}
	if n.Used == nil {
		return now.Sub(n.since) >= first
	}
	return now.Sub(*n.Used) >= next && now.Sub(n.since) >= min(first, next)
}

// expirePorts gives up ports that were asked for and that nobody uses.
func (d *Daemon) expirePorts(now time.Time) {
	d.mu.Lock()
	var names []string
	for name, n := range d.named {
		if d.expired(n, now, neverUsed, unused) {
			names = append(names, name)
		}
	}
	d.mu.Unlock()
	for _, name := range names {
		if s := d.forget(name); s != nil {
			s.cancel()
			d.log.Info("port given up: no device has used it; a guest that starts again gets it again", "name", name)
		}
	}
	if len(names) > 0 {
		if err := d.persistPorts(); err != nil {
			d.log.Error("remembering the ports", "error", err)
		}
	}
}

// keepPorts looks for ports to give up until ctx ends.
func (d *Daemon) keepPorts(ctx context.Context) {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			d.expirePorts(time.Now())
		}
	}
}

// mayAsk counts the ports that QEMU processes have asked for. Where there are too many, the one that is unused for longest makes room. The
// caller holds mu; the name that it returns has to be forgotten.
func (d *Daemon) mayAsk(uid int, now time.Time) (giveUp string, err error) {
	limit := d.askLimit
	mine, all := 0, 0
	oldest := map[bool]*namedState{} // of this user, of any
	for _, n := range d.named {
		if n.Asked == nil {
			continue
		}
		all++
		own := *n.Asked == uid
		if own {
			mine++
		}
		if !d.expired(n, now, youngest, youngest) {
			continue
		}
		for _, class := range []bool{true, false} {
			if o := oldest[class]; (own || !class) && (o == nil || n.last().Before(o.last())) {
				oldest[class] = n
			}
		}
	}
	own := mine >= limit.User
	if !own && all < limit.Total {
		return "", nil
	}
	if o := oldest[own]; o != nil {
		return o.Name, nil
	}
	return "", fmt.Errorf("%w: QEMU processes of user %d have asked for %d ports (of %d), all users for %d (of %d), and all are in use or new: "+
		"raise --max-ports, or remove some with vhostctl port remove", control.ErrForbidden, uid, mine, limit.User, all, limit.Total)
}

// last is when the port was used last, or made.
func (n *namedState) last() time.Time {
	if n.Used != nil && n.Used.After(n.since) {
		return *n.Used
	}
	return n.since
}

// askLimit bounds the ports that QEMU processes may ask for: such a process may have been taken over by its guest.
type askLimit struct{ User, Total int }

// forget takes a named port away, and returns its socket, which the caller closes; nil: there is none.
func (d *Daemon) forget(name string) *socket {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.named[name]
	if n == nil {
		return nil
	}
	path := d.socketOf(name)
	s := d.sockets[path]
	if s != nil && s.name != name { // a shared socket that has this path
		s = nil
	}
	delete(d.named, name)
	delete(d.byName, name) // a device that does not end must not keep the name
	if s != nil {
		delete(d.sockets, path)
		d.leaving[s] = true
		go func() {
			<-s.done
			d.mu.Lock()
			delete(d.leaving, s)
			d.mu.Unlock()
		}()
	}
	return s
}

// waitFor waits for a socket's devices to end, until the deadline.
func (s *socket) waitFor(deadline time.Time) bool {
	select {
	case <-s.done:
		return true
	default:
	}
	select {
	case <-s.done:
		return true
	case <-time.After(time.Until(deadline)):
		return false
	}
}

// RemovePort closes a named port's socket and its device, and forgets it.
func (d *Daemon) RemovePort(_ context.Context, name string) error {
	d.mu.Lock()
	n := d.named[name]
	opening := n != nil && !n.isReady()
	d.mu.Unlock()
	if n == nil {
		return fmt.Errorf("%w: port %q; vhostctl ports lists them", control.ErrNotFound, name)
	}
	if opening {
		return fmt.Errorf("%w: port %q is just being made", control.ErrBusy, name)
	}
	s := d.forget(name)
	if s != nil {
		s.cancel()
	}
	err := d.persistPorts()
	if s != nil && !s.waitFor(time.Now().Add(closeTimeout)) {
		d.log.Warn("port removed, but its device did not stop in time: the kernel waits for its front-end; the name is free", "name", name)
		return err
	}
	d.log.Info("port removed", "name", name)
	return err
}

func (n *namedState) isReady() bool {
	select {
	case <-n.ready:
		return true
	default:
		return false
	}
}
