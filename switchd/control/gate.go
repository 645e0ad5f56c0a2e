package control

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"vhostkit/internal/host"
	"vhostkit/switchd/budget"
	"vhostkit/switchd/unixsocket"
)

// Bounds that are the same for all sockets.
const (
	maxWaiting = 1024             // connections that wait for their turn
	maxWait    = 8 * time.Second  // less than what qemu-wrap waits for an answer
	complaints = 10 * time.Second // between two lines in the log about the same
	retryDelay = 100 * time.Millisecond
)

var errTooMany = errors.New("its user, or the switch, has as many as it may have")

// gate counts connections before anything is read from them (budget.Requests). One over the bound of its user waits for its turn, and is
// closed if that does not come soon; the process that has the fewest is the next, so that one with very many is in nobody's way.
type gate struct {
	net.Listener
	budget *budget.Budget // nil: no bounds
	admin  bool           // the control socket: root's and switchd's own user's may use the reserve
	log    *slog.Logger
	ready  chan net.Conn
	done   chan struct{}

	mu       sync.Mutex
	waiting  []*guest
	active   map[int]int // by process
	requests RequestStats
	told     time.Time
	closed   bool
}

// guest is a connection that is served, or waits.
type guest struct {
	net.Conn
	gate    *gate
	peer    Peer
	account *budget.Account
	timer   *time.Timer
	served  bool // gate.mu
	once    sync.Once
}

func newGate(l net.Listener, b *budget.Budget, admin bool, log *slog.Logger) *gate {
	g := &gate{Listener: l, budget: b, admin: admin, log: log, ready: make(chan net.Conn), done: make(chan struct{}), active: map[int]int{}}
	if s, ok := l.(syscall.Conn); ok {
		if _, err := unixsocket.RefuseRights(s); err != nil {
			log.Warn("control: descriptors that others send are taken and closed", "error", err)
		}
	}
	go g.run()
	return g
}

// Accept gives the next connection whose turn it is.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case c := <-g.ready:
		return c, nil
	case <-g.done:
		return nil, net.ErrClosed
	}
}

// Close ends accepting; who waits is sent away.
func (g *gate) Close() error {
	g.mu.Lock()
	waiting := g.waiting
	g.waiting = nil
	if !g.closed {
		g.closed = true
		close(g.done)
	}
	g.mu.Unlock()
	for _, c := range waiting {
		go c.Close()
	}
	return g.Listener.Close()
}

// run accepts for good: an error, such as no memory or descriptors, is no reason to stop serving.
func (g *gate) run() {
	for {
		c, err := g.Listener.Accept()
		select {
		case <-g.done:
			if err == nil {
				c.Close()
			}
			return
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			g.Close()
			return
		}
		if err != nil {
			g.complain("accepting connections; trying again", "error", err)
			select {
			case <-g.done:
			case <-time.After(retryDelay):
			}
			continue
		}
		g.admit(c)
	}
}

func (g *gate) admit(conn net.Conn) {
	peer, err := peerOf(conn)
	if err != nil {
		peer = host.NoPeer()
	}
	c := &guest{Conn: conn, gate: g, peer: peer}
	if g.budget != nil {
		c.account = g.budget.Open(peer.UID, g.admin && (peer.UID == 0 || peer.UID == os.Geteuid()))
	}
	if err := c.account.Take(budget.Descriptors, 1); err != nil {
		go g.refuse(c, err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := c.account.Take(budget.Requests, 1); err == nil {
		g.serve(c)
		return
	}
	g.requests.Waited++
	if len(g.waiting) >= maxWaiting {
		last := g.greediest()
		g.waiting[last].timer.Stop()
		go g.refuse(g.waiting[last], errTooMany)
		g.waiting = slices.Delete(g.waiting, last, last+1)
	}
	g.waiting = append(g.waiting, c)
	c.timer = time.AfterFunc(maxWait, func() { g.giveUp(c) })
}

// serve hands a counted connection to the server. The caller holds mu.
func (g *gate) serve(c *guest) {
	g.requests.Accepted++
	c.served = true
	g.active[c.peer.PID]++
	go func() {
		select {
		case g.ready <- c:
		case <-g.done:
			c.Close()
		}
	}()
}

// greediest is the last connection of the process of which most wait. The caller holds mu.
func (g *gate) greediest() int {
	count := map[int]int{}
	for _, c := range g.waiting {
		count[c.peer.PID]++
	}
	last := 0
	for i, c := range g.waiting {
		if count[c.peer.PID] >= count[g.waiting[last].peer.PID] {
			last = i
		}
	}
	return last
}

// next serves those that may be served now: of each user the first of the process that has the fewest. The caller holds mu.
func (g *gate) next() {
	full := map[int]bool{}
	for {
		best := -1
		for i, c := range g.waiting {
			if !full[c.peer.UID] && (best < 0 || g.active[c.peer.PID] < g.active[g.waiting[best].peer.PID]) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		c := g.waiting[best]
		if err := c.account.Take(budget.Requests, 1); err != nil {
			full[c.peer.UID] = true
			continue
		}
		c.timer.Stop()
		g.waiting = slices.Delete(g.waiting, best, best+1)
		g.serve(c)
	}
}

func (g *gate) giveUp(c *guest) {
	g.mu.Lock()
	i := slices.Index(g.waiting, c)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
	if i >= 0 {
		g.refuse(c, errTooMany)
	}
}

func (g *gate) refuse(c *guest, err error) {
	g.mu.Lock()
	g.requests.Refused++
	refused := g.requests.Refused
	g.mu.Unlock()
	g.complain("connection closed: too many requests at a time", "pid", c.peer.PID, "uid", c.peer.UID, "error", err, "refused_so_far", refused)
	// On a kernel that does not refuse descriptors this may take a thread for as long as their owner likes.
	for c.account.Take(budget.Threads, 1) != nil {
		time.Sleep(retryDelay)
	}
	c.Close()
}

// complain writes a line, but not for each of many.
func (g *gate) complain(what string, args ...any) {
	g.mu.Lock()
	quiet := time.Since(g.told) < complaints
	if !quiet {
		g.told = time.Now()
	}
	g.mu.Unlock()
	if !quiet {
		g.log.Warn("control: "+what, append([]any{"socket", g.Addr().String()}, args...)...)
	}
}

// Close returns what was counted when the descriptor is really gone: on a kernel that does not refuse descriptors, closing the socket
// closes what lies in it, which may take as long as its owner likes.
func (c *guest) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		g := c.gate
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, r := range []budget.Resource{budget.Descriptors, budget.Requests, budget.Threads} {
			c.account.Give(r, c.account.Used(r))
		}
		c.account.Close()
		if !c.served {
			return
		}
		if g.active[c.peer.PID]--; g.active[c.peer.PID] == 0 {
			delete(g.active, c.peer.PID)
		}
		if !g.closed {
			g.next()
		}
	})
	return err
}

func (g *gate) stats() RequestStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.requests
}
