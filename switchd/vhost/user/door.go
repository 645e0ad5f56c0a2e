package user

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	hostfacts "vhostkit/internal/host"
	"vhostkit/switchd/budget"
	"vhostkit/switchd/foreign"
	"vhostkit/switchd/vhost"
)

// door is what all connections of a socket have in common: who may come in, how often, and what the log says of it.
type door struct {
	config Config
	tally  *Tally
	paces  paces
	lines  lines
	// A named port has one place, whose account may use what is kept in reserve. It is the port's for life, so that what its front-ends
	// leave behind, such as descriptors that do not close, is counted to the port.
	seat   chan struct{}  // full while somebody has the place; nil: a shared socket
	files  *foreign.Files // of the place
	holder atomic.Int64   // pid
	rest   *foreign.Files // closes connections of those who may have nothing

	mu     sync.Mutex
	visits map[*visit]struct{}
	parked map[*visit]*time.Timer // refused, and closed soon
	ended  bool
}

// maxParked bounds the connections of a socket that are kept open for a while although nobody serves them.
const maxParked = 256

func newDoor(c Config) *door {
	d := &door{config: c, tally: c.Tally, visits: map[*visit]struct{}{}, parked: map[*visit]*time.Timer{}}
	if d.tally == nil {
		d.tally = &Tally{}
	}
	d.rest = foreign.New(open(c.Budget, os.Geteuid(), false))
	if c.Name != "" {
		d.seat = make(chan struct{}, 1)
		d.files = foreign.New(open(c.Budget, os.Geteuid(), true))
	}
	return d
}

// open opens an account; without a budget there is none, and there are no bounds.
func open(b *budget.Budget, uid int, reserved bool) *budget.Account {
	if b == nil {
		return nil
	}
	return b.Open(uid, reserved)
}

// close ends what the door has left, when no more connections come.
func (d *door) close() {
	d.mu.Lock()
	d.ended = true
	parked := d.parked
	d.parked = map[*visit]*time.Timer{}
	behind := len(d.visits)
	d.mu.Unlock()
	for v, timer := range parked {
		timer.Stop()
		v.end()
	}
	if behind > 0 { // they still have something to give back, and to close
		return
	}
	d.rest.Finish()
	if d.files != nil {
		d.files.Finish()
	}
}

// pending lists what sessions that have not ended wait for.
func (d *door) pending() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for v := range d.visits {
		list = append(list, fmt.Sprintf("pid %d: %s", v.peer.PID, *v.doing.Load()))
	}
	return list
}

// serve takes a connection from its beginning to its end.
func (d *door) serve(ctx context.Context, socket *net.UnixConn) {
	v := &visit{door: d, conn: conn{socket: socket, files: d.rest}, peer: peerOf(socket), since: time.Now()}
	v.log = d.config.Log.With("socket", d.config.Path, "pid", v.peer.PID, "uid", v.peer.UID, "comm", v.peer.Comm)
	v.note("comes in")
	d.mu.Lock()
	d.visits[v] = struct{}{}
	d.mu.Unlock()
	d.tally.accepted()
	reason, err := v.admit(ctx)
	if err == nil {
		reason, err = v.stay(ctx)
	}
	v.note("leaves")
	v.leave(ctx, reason, err)
	d.mu.Lock()
	delete(d.visits, v)
	d.mu.Unlock()
}

// park keeps a connection open for a while. false: it is to be closed now.
func (d *door) park(v *visit, delay time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || d.config.client || len(d.parked) >= maxParked {
		return false
	}
	d.parked[v] = time.AfterFunc(delay, func() {
		d.mu.Lock()
		_, still := d.parked[v]
		delete(d.parked, v)
		d.mu.Unlock()
		if still {
			v.end()
		}
	})
	return true
}

// visit is a connection.
type visit struct {
	door    *door
	conn    conn
	peer    vhost.Peer
	log     *slog.Logger
	since   time.Time
	counted bool // conn.files' account has the connection and its descriptor
	seated  bool // has a named port's only place
	device  bool // has become one
	failure atomic.Pointer[error]
	doing   atomic.Pointer[string]
}

// note says what the session is about to do, for whoever waits for its end.
func (v *visit) note(what string) { v.doing.Store(&what) }

// count has a connection and its descriptor counted to an account.
func (v *visit) count(files *foreign.Files) error {
	a := files.Account()
	if err := a.Take(budget.Connections, 1); err != nil {
		return err
	}
	if err := a.Take(budget.Descriptors, 1); err != nil {
		a.Give(budget.Connections, 1)
		return err
	}
	v.uncount()
	v.conn.files, v.conn.own, v.counted = files, 1, true
	return nil
}

// uncount gives back what the connection was counted as so far.
func (v *visit) uncount() {
	if !v.counted {
		return
	}
	a := v.conn.files.Account()
	a.Give(budget.Descriptors, v.conn.own)
	a.Give(budget.Connections, 1)
	v.finish()
	v.counted = false
}

// finish ends an account that is this connection's alone.
func (v *visit) finish() {
	if v.conn.files != v.door.files && v.conn.files != v.door.rest {
		v.conn.files.Finish()
	}
}

// stranger opens an account of the peer's for this connection.
func (v *visit) stranger() error {
	files := foreign.New(open(v.door.config.Budget, v.peer.UID, v.door.config.client))
	if err := v.count(files); err != nil {
		files.Finish()
		return err
	}
	return nil
}

// seatPatience is how long a connection to a named port waits for the one before it to go: a QEMU that is started again may be faster than
// the unmapping of its predecessor's memory.
const seatPatience = 500 * time.Millisecond

// admit counts the connection, and finds it a place.
func (v *visit) admit(ctx context.Context) (Reason, error) {
	d := v.door
	if d.seat == nil {
		return ReasonBudget, v.stranger()
	}
	select {
	case d.seat <- struct{}{}:
		return v.sit()
	default:
	}
	// While its predecessor leaves, it is its user's; one whose user has used up everything waits at the port's expense, which has room for one.
	if err := v.stranger(); err != nil && v.count(d.files) != nil {
		return ReasonBudget, err
	}
	v.note("waits for its port to be free")
	patience := time.NewTimer(seatPatience)
	defer patience.Stop()
	select {
	case d.seat <- struct{}{}:
		return v.sit()
	case <-ctx.Done():
		return "", ctx.Err()
	case <-patience.C:
	}
	return ReasonInUse, fmt.Errorf("port %q is in use by pid %d; a named port takes one device at a time", d.config.Name, d.holder.Load())
}

// sit takes the place of a named port, whose seat the visit holds.
func (v *visit) sit() (Reason, error) {
	if err := v.count(v.door.files); err != nil {
		<-v.door.seat
		return ReasonBudget, err
	}
	v.seated = true
	v.door.holder.Store(int64(v.peer.PID))
	return "", nil
}

// leave says what became of the connection, and ends it: at once where the front-end has gone, after a while where it was refused.
func (v *visit) leave(ctx context.Context, reason Reason, err error) {
	d, now := v.door, time.Now()
	if v.seated {
		defer func() { <-d.seat }()
	}
	switch {
	case err == nil, errors.Is(err, errGone), ctx.Err() != nil:
		if v.device {
			d.lines.info(v.log, now, "device disconnected")
		}
		d.paces.left(v.peer, now, now.Sub(v.since))
		v.end()
		return
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		if v.device {
			d.lines.info(v.log, now, "device disconnected", "error", err)
		}
		d.paces.left(v.peer, now, now.Sub(v.since))
		v.end()
		return
	}
	text := "connection refused"
	if v.device {
		text = "device stopped; the other ports are not affected"
	}
	d.tally.Refused(Refusal{Time: now, Reason: reason, Error: err.Error(), Peer: v.peer})
	d.lines.once(v.log, now, text, reason, err)
	// What waits is the peer's, not the port's.
	if v.seated && v.stranger() != nil || !v.counted || !d.park(v, d.paces.refused(v.peer, now)) {
		v.end()
	}
}

// end closes the connection.
func (v *visit) end() {
	a := v.conn.files.Account()
	v.conn.close()
	if v.counted {
		v.counted = false
		a.Give(budget.Connections, 1)
		v.finish()
	}
}

// peerOf tells who is at the other end.
func peerOf(socket *net.UnixConn) vhost.Peer {
	peer, err := hostfacts.PeerOf(socket)
	if err != nil {
		return hostfacts.NoPeer()
	}
	return peer.Named()
}
